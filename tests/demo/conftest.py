"""The demo backend, served on loopback."""

from collections.abc import AsyncIterator

import pytest

from keytoll.demo.backend import create_backend
from keytoll.http.server import serve_tcp


@pytest.fixture(scope="session")
async def backend_url() -> AsyncIterator[str]:
    async with serve_tcp(create_backend(token_delay_s=0), host="127.0.0.1", port=0) as port:
        yield f"http://127.0.0.1:{port}/v1"
