"""Load over HTTP/1.1: by wrk (on Debian: apt install wrk), else by a client in Python, which is slower and says so."""

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL = "bench"
BODY = json.dumps(
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Say hello, and tell me in a sentence what you can do for me today. " * 3},
        ],
        "max_tokens": 64,
    }
)
_PERCENTILES = (50.0, 99.0, 99.9)
_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for secret in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", "/v1/chat/completions",
      {["content-type"] = "application/json", authorization = "Bearer " .. secret}, [==[BODY]==])
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\\n{"requests": %d, "bad": %d, "us": %d, "p50": %d, "p99": %d, "p99.9": %d}\\n', summary.requests,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


class LoadFailed(Exception):
    """Not every request was answered as it should be: then nothing that was measured counts."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load did: how many requests were answered, in which time, and percentiles of how long each took."""

    requests: int
    duration_s: float
    latency_us: dict[float, float]

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return self.requests / self.duration_s


class Caller:
    """Calls one port with the keys of `secrets` in turn, from `folder`."""

    def __init__(self, folder: Path, secrets: Sequence[str], *, name: str = "load") -> None:
        self._secrets = list(secrets)
        self._keys, self._script = folder / f"{name}.keys", folder / f"{name}.lua"
        self._keys.write_text("".join(f"{secret}\n" for secret in secrets))
        self._script.write_text(_SCRIPT.replace("BODY", BODY))

    async def run(self, port: int, *, connections: int, seconds: int) -> Load:
        """Call for a time. Raises LoadFailed."""
        if (wrk := shutil.which("wrk")) is None:
            return await _python_load(port, self._secrets, connections=connections, seconds=seconds)
        how = ("-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(self._script))
        output = await _output(wrk, *how, f"http://127.0.0.1:{port}", "--", str(self._keys))
        told = json.loads(output.rstrip().rpartition("\n")[2])
        if told["bad"] or not told["requests"]:
            raise LoadFailed(output)
        return Load(told["requests"], told["us"] / 1e6, {p: told[f"p{p:g}"] for p in _PERCENTILES})


def note() -> str:
    """Say what makes the load."""
    return "load by wrk" if shutil.which("wrk") else "load by a client in Python, for want of wrk: rates are too low"


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def _python_load(port: int, secrets: Sequence[str], *, connections: int, seconds: int) -> Load:
    started_s = time.perf_counter()
    calls = [_call(port, secrets[n::connections] or secrets, until_s=started_s + seconds) for n in range(connections)]
    latencies = sorted(took_us for each in await asyncio.gather(*calls) for took_us in each)
    at = {p: latencies[min(len(latencies) - 1, int(len(latencies) * p / 100))] for p in _PERCENTILES}
    return Load(len(latencies), time.perf_counter() - started_s, at)


async def _call(port: int, secrets: Sequence[str], *, until_s: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took_us: list[float] = []
    while (started_s := time.perf_counter()) < until_s:
        writer.write(_request(secrets[len(took_us) % len(secrets)]))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise LoadFailed(head.decode())
        took_us.append((time.perf_counter() - started_s) * 1e6)
    writer.close()
    return took_us


def _request(secret: str) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {secret}\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    return (head + BODY).encode()
