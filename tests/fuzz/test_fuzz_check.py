"""Whatever bytes come to Check, it answers them or finds them undecodable, and lets nothing through that it mustn't."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError

from fuzz.asking import asking_in, judge, requests
from fuzz.conftest import evidence, rng_of, share
from fuzz.mutations import PROTOBUF, mutated


async def test_mutated_checks_never_crash_and_never_admit_without_a_live_key_and_a_known_model(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    """A secret that is spent, expired, deleted, unknown or damaged admits nothing, whatever stands around it."""
    rng, count = rng_of("check"), share(45)
    corpus = requests(rng)
    seen: Counter[str] = Counter()
    async with asking_in(tmp_path) as ask:
        for number in range(count):
            message = mutated(rng, rng.choice(corpus), corpus, PROTOBUF)
            with evidence(number, message):
                try:
                    answer = await ask(message)
                except DecodeError:
                    seen["undecodable"] += 1
                else:
                    seen[judge(message, answer)] += 1
        assert len(ask.book) == 0
    assert min(seen[kind] for kind in ("undecodable", "refused", "admitted", "read", "let come")) > 0
    report(f"{count:,} Checks: {dict(seen)}")
