"""Month ends in the billing zone, from Check's bytes to the ledger: a request, what it holds and what it costs belong to
the month of its admission, however long it runs.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from changes import keep_key
from google.protobuf.json_format import MessageToDict
from serving import Clock
from told import named, told

from keytoll.admission.bodies import LargeBodies
from keytoll.core.decision import Rules
from keytoll.core.keys import Key
from keytoll.core.months import Calendar
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.core.quota import Quota, QuotaKind
from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.messages.check_pb2 import CheckRequest, CheckResponse
from keytoll.store.base import Store
from settlement.conftest import Desk
from settlement.lines import record

S, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
TOKENS = 100
PRICES = Prices(input=0, output=1_000_000_000, cached_input=0, cache_write=0, audio_input=0, audio_output=0)
COST_NANO = TOKENS * 1_000
"""What each request holds, and costs."""

OFFER = Offer(
    model="m",
    pool="model/m",
    prices=(PriceVersion(0, PRICES, PRICES.id),),
    retries=0,
    upstream_model="m",
    running_usage=False,
    context_length=1000,
    maximum_output=1000,
    template_tokens=0,
)
SECRET = mint(KEY_PREFIX, bytes(range(32)))
TWO_A_MONTH = Quota(QuotaKind.MONTHLY, 2 * COST_NANO)
KEY = Key("key_1", "users/alice", "k", digest_of(SECRET), SECRET[-4:], TWO_A_MONTH, None, 0)


@dataclass(frozen=True, slots=True)
class MonthEnd:
    """The first instant of `after`, and how the zone writes it."""

    zone: str
    midnight_us: int
    before: str
    after: str
    text: str


MONTH_ENDS = [
    MonthEnd("Asia/Shanghai", 1_793_462_400 * S, "2026-10", "2026-11", "2026-11-01T00:00:00+08:00"),
    # At 2 in the morning of that 1st the clocks are set back: its first 25 hours are of the new month.
    MonthEnd("America/New_York", 1_793_505_600 * S, "2026-10", "2026-11", "2026-11-01T00:00:00-04:00"),
    # The month that began in summer time ends in winter time.
    MonthEnd("America/New_York", 1_796_101_200 * S, "2026-11", "2026-12", "2026-12-01T00:00:00-05:00"),
    MonthEnd("UTC", 1_793_491_200 * S, "2026-10", "2026-11", "2026-11-01T00:00:00+00:00"),
]


class Office:
    """Check and settlement of one Keytoll on one clock."""

    def __init__(self, desk: Desk, clock: Clock, zone: str) -> None:
        self.desk, self.clock, self.zone = desk, clock, zone
        rules = Rules(Calendar(ZoneInfo(zone)), "CNY", {"m": OFFER})
        self.check = CheckHandler(
            desk.cache,
            book=desk.book,
            bodies=LargeBodies(monotonic=lambda: 0.0),
            rules=lambda: rules,
            clock=clock,
            random=os.urandom,
            metrics=desk.metrics,
        )

    async def ask(self, at_us: int) -> CheckResponse:
        """Return Check's answer to a request at the instant."""
        self.clock.now_us = at_us
        message = CheckRequest()
        http = message.attributes.request.http
        http.method, http.path = "POST", "/v1/chat/completions"
        http.headers.update({"authorization": f"Bearer {SECRET}", "content-type": "application/json"})
        http.headers["content-length"] = "100"
        facts = message.attributes.metadata_context.filter_metadata["kt.req"]
        facts.update({"model": "m", "stream": True, "max_tokens": TOKENS})
        answer = self.check(message.SerializeToString())
        return CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)

    async def admitted(self, at_us: int) -> dict[str, str]:
        """Return what Check hands to Envoy for a request that it admits."""
        response = await self.ask(at_us)
        assert response.status.code == 0, response.denied_response.body
        return named(MessageToDict(response.dynamic_metadata))

    async def refused(self, at_us: int) -> tuple[str, str]:
        """Return code and message of a refusal."""
        response = await self.ask(at_us)
        assert response.denied_response.status.code == 429
        error = json.loads(response.denied_response.body)["error"]
        return error["code"], error["message"]

    async def finish(self, *facts: dict[str, str], at_us: int) -> None:
        """Let requests end at the instant, and settle what Envoy then journals."""
        self.clock.now_us = at_us
        usage = {"prompt_tokens": 10, "completion_tokens": TOKENS}
        lines = [json.dumps(record(0, **told(each), usage=usage)) for each in facts]
        with (self.desk.folder / "journal.jsonl").open("a") as journal:
            journal.writelines(f"{line}\n" for line in lines)
        await self.desk.catch_up()

    async def restarted(self) -> "Office":
        """Return the next process, on the same files and store."""
        return Office(await self.desk.restarted(), self.clock, self.zone)

    async def spent(self) -> dict[str, int]:
        """Return how many requests' worth was charged in each month: to the key and to its owner, which is the same."""
        stored = await self.desk.store.key_by_id("key_1")
        assert stored is not None
        assert dict(stored.totals.by_month) == dict(await self.desk.store.owner_totals("users/alice"))
        assert sum(stored.totals.by_month.values()) == stored.totals.lifetime_nano
        return {month: amount_nano // COST_NANO for month, amount_nano in stored.totals.by_month.items()}

    def held(self) -> dict[str, int]:
        """Return how many requests are held in each month."""
        return {month: held.count for month, held in self.desk.book.of("key_1").by_month}


@pytest.fixture(params=MONTH_ENDS, ids=lambda end: f"{end.zone} {end.after}")
def end(request: pytest.FixtureRequest) -> MonthEnd:
    """A month end."""
    chosen: MonthEnd = request.param
    return chosen


@pytest.fixture
async def office(store: Store, tmp_path: Path, end: MonthEnd) -> Office:
    """An office with a key that may spend two requests' worth a month."""
    folder, clock = tmp_path / "journal", Clock(end.midnight_us - HOUR)
    folder.mkdir()
    await store.note_prices([("m", 0, PRICES)], 0)
    await keep_key(store, KEY)
    desk = Desk(store, folder, clock=clock)
    await desk.book.restore(store)
    return Office(desk, clock, end.zone)


async def test_a_stream_that_crosses_the_month_end_belongs_to_the_month_it_began_in(
    office: Office, end: MonthEnd
) -> None:
    """Its hold takes nothing from the new month, and its charge comes to the old one, ten minutes into the new."""
    await office.finish(await office.admitted(end.midnight_us - HOUR), at_us=end.midnight_us - HOUR + S)
    stream = await office.admitted(end.midnight_us - 1)
    assert (stream["month"], office.held()) == (end.before, {end.before: 1})
    code, _ = await office.refused(end.midnight_us - 1)
    assert code == "rate_limit_exceeded"

    fresh = [await office.admitted(end.midnight_us), await office.admitted(end.midnight_us + MINUTE)]
    assert [each["month"] for each in fresh] == [end.after, end.after]
    assert office.held() == {end.before: 1, end.after: 2}
    code, _ = await office.refused(end.midnight_us + MINUTE)
    assert code == "rate_limit_exceeded"

    await office.finish(stream, at_us=end.midnight_us + 10 * MINUTE)
    assert await office.spent() == {end.before: 2}
    assert office.held() == {end.after: 2}
    await office.finish(*fresh, at_us=end.midnight_us + 11 * MINUTE)
    assert await office.spent() == {end.before: 2, end.after: 2}
    assert office.held() == {}


async def test_a_spent_key_is_told_the_midnight_at_which_it_gets_through_again(office: Office, end: MonthEnd) -> None:
    both = [await office.admitted(end.midnight_us - HOUR), await office.admitted(end.midnight_us - HOUR)]
    await office.finish(*both, at_us=end.midnight_us - HOUR + S)
    code, message = await office.refused(end.midnight_us - 1)
    assert code == "insufficient_quota"
    assert f"resets at {end.text}" in message
    assert (await office.admitted(end.midnight_us))["month"] == end.after


async def test_a_restart_amid_the_month_end_keeps_each_hold_in_its_month(office: Office, end: MonthEnd) -> None:
    old = await office.admitted(end.midnight_us - S)
    new = await office.admitted(end.midnight_us + S)
    office = await office.restarted()
    assert office.held() == {end.before: 1, end.after: 1}
    second = await office.admitted(end.midnight_us + 2 * S)
    assert (await office.refused(end.midnight_us + 2 * S))[0] == "rate_limit_exceeded"
    await office.finish(new, second, old, at_us=end.midnight_us + 3 * S)
    assert await office.spent() == {end.before: 1, end.after: 2}


async def test_a_clock_that_steps_back_over_the_month_end_opens_no_third_request(office: Office, end: MonthEnd) -> None:
    """What is admitted then belongs to the old month again, which counts what it spent before."""
    old = await office.admitted(end.midnight_us - S)
    new = await office.admitted(end.midnight_us + S)
    await office.finish(old, new, at_us=end.midnight_us + 2 * S)
    again = await office.admitted(end.midnight_us - 2 * S)
    assert again["month"] == end.before
    await office.finish(again, at_us=end.midnight_us - S)
    assert (await office.refused(end.midnight_us - 1))[0] == "insufficient_quota"
    assert (await office.admitted(end.midnight_us + 5 * S))["month"] == end.after
    assert await office.spent() == {end.before: 2, end.after: 1}


async def test_the_first_day_is_all_of_the_new_month_also_where_it_has_25_hours(office: Office, end: MonthEnd) -> None:
    """The hour that comes twice is of the new month both times."""
    for half_hours in range(51):
        at_us = end.midnight_us + half_hours * 30 * MINUTE
        facts = await office.admitted(at_us)
        assert facts["month"] == end.after
        office.check.void(_answer_of(facts))
    assert office.held() == {}


def _answer_of(facts: dict[str, str]) -> bytes:
    response = CheckResponse()
    response.dynamic_metadata.update(told(facts))
    return response.SerializeToString()
