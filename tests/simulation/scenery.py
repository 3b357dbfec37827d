"""What a run is made of: keys, catalogs, requests and how they end, all drawn from the seed."""

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from random import Random
from types import MappingProxyType
from zoneinfo import ZoneInfo

from keytoll.core.offer import Offer, Offers, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.core.rates import Rates
from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from simulation.model import ENDPOINTS, Asked, Limit, Outcome, Served

US = 1_000_000
USUAL = (250, 250, 1000)

STARTS = (
    ("Asia/Shanghai", datetime(2026, 10, 31, 15, 50, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 3, 50, tzinfo=UTC)),  # daylight saving ends two hours into the month
    ("America/Asuncion", datetime(2017, 10, 1, 3, 50, tzinfo=UTC)),  # the month begins at 01:00, midnight is skipped
    ("Europe/London", datetime(2026, 3, 31, 22, 50, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, 3, 50, tzinfo=UTC)),  # the clock goes from 01:00 back to midnight
    ("UTC", datetime(2026, 12, 31, 23, 50, tzinfo=UTC)),
)
"""Billing zones, and instants shortly before one of their months ends."""


@dataclass(frozen=True, slots=True)
class SimulatedKey:
    """A key, as its caller and the store know it."""

    id: str
    owner: str
    secret: str = field(repr=False)
    digest: bytes = field(repr=False)


@cache
def key_pool(count: int) -> tuple[SimulatedKey, ...]:
    """Return keys, the same for every seed, since making them takes time."""
    random, found = Random(0), []
    for number in range(count):
        secret = mint(KEY_PREFIX, random.randbytes(32))
        owner = f"organizations/o{number % 3}" if number % 4 else f"users/u{number}"
        found.append(SimulatedKey(f"key_{number:05d}", owner, secret, digest_of(secret)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Start:
    """When and where a run begins."""

    zone: ZoneInfo
    at_us: int


def draw_start(random: Random) -> Start:
    """Draw a billing zone and an instant shortly before its month ends."""
    name, at = random.choice(STARTS)
    return Start(ZoneInfo(name), int(at.timestamp()) * US + random.randrange(15 * 60 * US))


def draw_limit(random: Random) -> Limit:
    """Draw a quota: often one that a few requests spend."""
    kind = random.choice(("unlimited", "monthly", "monthly", "total", "total"))
    if kind == "unlimited":
        return Limit(kind)
    nano = (0, 1, random.randrange(1, 10**6), random.randrange(10**6, 10**7), random.randrange(10**7, 10**8), 10**10)
    return Limit(kind, random.choices(nano, (1, 1, 3, 8, 16, 3))[0])


def draw_catalog(random: Random, at_us: int) -> tuple[dict[str, Served], Offers]:
    """Draw a catalog, as the model and as the product know it. Some prices begin to apply a little later."""
    sizes = {
        "plain": Served(1000, 200, 16, 0, media=False, rates=USUAL, prices=()),
        "odd": Served(300, 100, 256, 0, media=False, rates=USUAL, prices=()),
        "free": Served(2000, 100, 0, 0, media=False, rates=USUAL, prices=()),
        "seeing": Served(1500, 400, 8, 50, media=True, rates=(1000, 333, 1500), prices=()),
    }
    served = {name: replace(size, prices=_draw_prices(random, name, at_us)) for name, size in sizes.items()}
    return served, MappingProxyType({name: _offer(name, each) for name, each in served.items()})


OBEYED = {
    "chat/completions": ("max_tokens", "max_completion_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
"""The names of limits that an endpoint obeys. Any other name is ignored by backends, and must be by Keytoll."""


def draw_asked(random: Random) -> Asked:
    """Draw a request."""
    endpoint = random.choices(tuple(ENDPOINTS), (60, 8, 12, 6, 6))[0]
    sizes = (random.randrange(400), random.randrange(5_000), random.randrange(200_000))
    body_bytes = None if random.random() < 0.03 else random.choices(sizes, (6, 3, 1))[0]
    limit = random.choice((0, random.randrange(1, 60), random.randrange(1, 400), 10**15))
    limits = (limit, random.randrange(100))[: random.choices((0, 1, 2), (3, 6, 1))[0]]
    answers = (random.choice((0, 1, 2, 4)),) if random.random() < 0.2 else ()
    return Asked(endpoint, body_bytes, limits[: len(OBEYED.get(endpoint, ()))], answers)


def draw_outcome(random: Random, asked: Asked, served: Served) -> Outcome:
    """Draw how a request ends."""
    told = _draw_tokens(random, asked, served)
    sent = asked.body_bytes if asked.body_bytes is not None else random.randrange(10**6)
    whole = Outcome(200, random.choice((1, 1, 1, 2)), told, True, sent, random.randrange(4000), None)
    output = told["output"] + told["audio_output"]
    if random.random() < 0.5:
        whole = replace(whole, events=output + random.randrange(3))
    if not ENDPOINTS[asked.endpoint].outputs:
        whole = replace(whole, output_told=False)
    zeros = dict.fromkeys(told, 0)
    ends = (
        whole,
        replace(whole, tokens=zeros),
        replace(whole, output_told=False, tokens={**told, "output": 0, "audio_output": 0}),
        replace(whole, tokens=None),
        replace(whole, tokens=None, events=random.randrange(3000)),
        replace(whole, status=random.choice((400, 429, 500, 503)), tokens=random.choice((None, told))),
        replace(whole, status=0, attempts=0, tokens=None, events=None, answer_bytes=0),
        replace(whole, status=0, tokens=random.choice((None, told))),
        replace(whole, tokens={name: count * 50 for name, count in told.items()}),
    )
    return random.choices(ends, (50, 3, 8, 8, 8, 8, 4, 5, 3))[0]


def _draw_tokens(random: Random, asked: Asked, served: Served) -> dict[str, int]:
    most_in = min((asked.body_bytes or 1000) + served.template, served.context)
    most_out = 0
    if ENDPOINTS[asked.endpoint].outputs:
        most_out = min(max(asked.limits, default=0) or served.maximum_output, served.context)
    read, written = random.randint(0, most_in), random.randint(0, most_out)
    cached, kept = (random.randint(0, read // 2), random.randint(0, read // 4)) if random.random() < 0.4 else (0, 0)
    heard, spoken = (random.randint(0, read // 4), random.randint(0, written)) if random.random() < 0.15 else (0, 0)
    return {
        "input": read - cached - kept - heard,
        "cached_input": cached,
        "cache_write": kept,
        "audio_input": heard,
        "output": written - spoken,
        "audio_output": spoken,
    }


def _draw_prices(random: Random, name: str, at_us: int) -> tuple[tuple[int, dict[str, int]], ...]:
    begins = sorted(at_us + random.randrange(-1800, 3600) * US for _ in range(random.randint(1, 3)))
    return tuple((from_us, _draw_price(random, name)) for from_us in begins)


def _draw_price(random: Random, name: str) -> dict[str, int]:
    scale = {"plain": 12 * 10**9, "odd": 999_999, "free": 1, "seeing": 3 * 10**9}[name]
    price = {each.name: random.randrange(scale) for each in fields(Prices)}
    price["request"] = random.choice((0, 1, random.randrange(10**5))) if name == "odd" else 0
    return price


def _offer(name: str, served: Served) -> Offer:
    versions = [(from_us, Prices(**price)) for from_us, price in served.prices]
    return Offer(
        model=name,
        pool=f"model/{name}",
        prices=tuple(PriceVersion(from_us, prices, prices.id) for from_us, prices in versions),
        retries=1,
        upstream_model=None,
        running_usage=False,
        context_length=served.context,
        maximum_output=served.maximum_output,
        template_tokens=served.template,
        reasoning_beyond=served.beyond,
        takes_media=served.media,
        rates=Rates(*served.rates),
    )
