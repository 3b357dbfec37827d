"""A pod that ends as Kubernetes ends it: no request fails, no stream is cut, no charge is lost."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.pod import MODEL, Pod, backend

WORKERS, STREAMS = 12, 8
TOKENS = 50
SHORT = {"KEYTOLL_DRAIN_NOTICE_S": "1"}


def ask(words: int, *, stream: bool = False) -> dict[str, Any]:
    return {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": f"Count to {words}"}]}


@dataclass
class Load:
    """Callers who go on until they are refused: by connections that are kept, and by streams that are long."""

    url: str
    headers: Mapping[str, str]
    answers: Counter[str] = field(default_factory=Counter)
    streamed: int = 0

    async def keep_asking(self) -> None:
        """Ask without a pause on one connection, as long as there is a connection to be had.

        A connection that is reset before any answer was still on its way to Envoy when that stopped taking them, if the
        next is refused. That nobody took its request shows in the ledger.
        """
        async with httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=30) as client:
            reset = ""
            while True:
                try:
                    answer = await client.post("/v1/chat/completions", json=ask(3))
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    self.answers[reset] += bool(reset)
                    reset = repr(error)
                    continue
                self.answers[reset or str(answer.status_code)] += 1

    async def stream(self, begun: asyncio.Semaphore) -> None:
        """Read one stream to its end."""
        async with (
            httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=30) as client,
            client.stream("POST", "/v1/chat/completions", json=ask(TOKENS, stream=True)) as answer,
        ):
            last = ""
            async for line in answer.aiter_lines():
                begun.release()
                last = line or last
            self.answers[str(answer.status_code)] += 1
            self.streamed += last == "data: [DONE]"


async def test_a_pod_that_ends_under_load_fails_no_request_cuts_no_stream_and_loses_no_charge(tmp_path: Path) -> None:
    async with backend(token_delay_s=0.05) as port:
        pod = Pod(tmp_path, port, SHORT)
        async with pod.running() as running:
            key = await pod.new_key()
            load = Load(pod.url, {"authorization": f"Bearer {key['secret']}"})
            begun = asyncio.Semaphore(0)
            async with asyncio.TaskGroup() as callers:
                for _ in range(WORKERS):
                    callers.create_task(load.keep_asking())
                for _ in range(STREAMS):
                    callers.create_task(load.stream(begun))
                for _ in range(STREAMS * 3):
                    await begun.acquire()
                code, out = await running.end()
        assert (code, out) == (0, "")
        assert load.streamed == STREAMS
        assert set(+load.answers) == {"200"}
        async with pod.running():
            rows = await pod.charges()
        assert len(rows) == load.answers["200"]
        assert {row["measured"] for row in rows} == {"reported"}


async def test_what_runs_longer_than_the_drain_may_take_is_told_and_charged_when_it_is_cut(tmp_path: Path) -> None:
    async with backend(token_delay_s=0.05) as port:
        pod = Pod(tmp_path, port, {"KEYTOLL_DRAIN_NOTICE_S": "0", "KEYTOLL_DRAIN_WITHIN_S": "0.5"})
        async with pod.running() as running:
            key = await pod.new_key()
            load = Load(pod.url, {"authorization": f"Bearer {key['secret']}"})
            begun = asyncio.Semaphore(0)
            stream = asyncio.create_task(load.stream(begun))
            await begun.acquire()
            code, out = await running.end()
            await asyncio.gather(stream, return_exceptions=True)
        assert (code, out) == (1, "keytoll: 1 request still runs after 0.5 s: to stop Envoy cuts it\n")
        async with pod.running():
            (row,) = await pod.charges()
        assert row["measured"] == "estimated"


async def test_an_envoy_that_is_gone_needs_no_drain_and_one_that_does_not_answer_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    async with backend() as port:
        pod = Pod(tmp_path, port, {"KEYTOLL_DRAIN_WITHIN_S": "0.5"})
        async with pod.running() as running:
            os.kill(running.envoy.pid, signal.SIGSTOP)
            try:
                assert await pod.pre_stop() == (1, "keytoll: Envoy runs and did not answer within 0.5 s\n")
            finally:
                os.kill(running.envoy.pid, signal.SIGCONT)
            await running.envoy.stop()
            assert await pod.pre_stop() == (0, "")
