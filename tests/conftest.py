from collections.abc import Iterator

import pytest
from postgres_server import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server that all tests share, each with databases of its own; leave it running."""
    with postgres_server() as server:
        yield server
