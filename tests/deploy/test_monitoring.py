"""Alerts and dashboard ask only for what a Keytoll really exports, and the operator's guide tells of each alert."""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.pod import MODEL, Pod, backend
from deploy.queries import alerts, dashboard_queries, operators_guide
from keytoll.core.ledger import Measured

Series = Mapping[str, Mapping[str, set[str]]]
"""By the name of a sample: the values that each of its labels has."""

_FROM_THE_SCRAPE = {"namespace": {"keytoll"}, "pod": {"keytoll-0"}}
_SELECTOR = re.compile(r"\b(keytoll_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture(scope="module")
async def exported(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Series]:
    """What a Keytoll exports once it has charged a request."""
    async with backend() as port:
        pod = Pod(tmp_path_factory.mktemp("scraped"), port)
        async with pod.running(), httpx.AsyncClient(trust_env=False) as client:
            headers = {"authorization": f"Bearer {(await pod.new_key())['secret']}"}
            body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
            (await client.post(f"{pod.url}/v1/chat/completions", json=body, headers=headers)).raise_for_status()
            await pod.charged(1)
            yield series((await client.get(pod.metrics_url)).raise_for_status().text)


def series(text: str) -> Series:
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in {"": "", **sample.labels}.items():
                found[sample.name][label].add(value)
    found["keytoll_settled_requests_total"]["measured"] |= set(Measured)
    return found


def problems(query: str, exported: Series) -> list[str]:
    """Return what a query asks for in vain."""
    labels: dict[str, set[str]] = dict(_FROM_THE_SCRAPE)
    found = []
    for name, matchers in _SELECTOR.findall(query):
        if name not in exported:
            found.append(f"no metric {name}")
            continue
        labels |= exported[name]
        known = _FROM_THE_SCRAPE | dict(exported[name])
        for label, _, value in _MATCHER.findall(matchers):
            found += [f"no {name} with {label}={each}" for each in value.split("|") if each not in known.get(label, ())]
    grouped = [label.strip() for group in _GROUPING.findall(query) for label in group.split(",")]
    return found + [f"no label {label}" for label in grouped if label not in labels]


async def test_each_query_of_the_dashboard_finds_its_metrics(exported: Series) -> None:
    assert {title: found for title, query in dashboard_queries() if (found := problems(query, exported))} == {}


async def test_each_alert_finds_its_metrics(exported: Series) -> None:
    found = {name: problems(rule["expr"], exported) for name, rule in alerts().items()}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("rate(keytoll_nothing_total[5m])", ["no metric keytoll_nothing_total"]),
        ('keytoll_decisions_total{reason=~"allowed|bored"}', ["no keytoll_decisions_total with reason=bored"]),
        ("sum by (owner) (keytoll_tokens_total)", ["no label owner"]),
    ],
)
async def test_a_query_for_what_is_not_exported_is_found_out(query: str, said: list[str], exported: Series) -> None:
    assert problems(query, exported) == said


@pytest.mark.parametrize("name", alerts())
def test_the_operators_guide_says_what_to_do_at_each_alert(name: str) -> None:
    assert f"### {name}\n" in operators_guide()


def test_the_operators_guide_tells_of_no_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (Keytoll\w+)$", operators_guide(), re.MULTILINE)) == set(alerts())
