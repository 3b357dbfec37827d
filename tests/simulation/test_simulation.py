"""The seeded simulation of admission and settlement, against a model that shares nothing with the product.

`KEYTOLL_SIMULATION_SEEDS` is how many seeds are run. A failure names its seed, which alone brings it back.
"""

import ast
import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from postgres_server import PostgresServer

from simulation import model
from simulation.faults import FAULTS
from simulation.model import Violation
from simulation.places import Database
from simulation.simulation import Report, SimulationFailed, run

SEEDS = int(os.environ.get("KEYTOLL_SIMULATION_SEEDS", "10"))
_TRIES = 25
_ALLOWED = {"collections", "dataclasses", "datetime", "fractions", "math", "zoneinfo"}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_money_is_exact_whatever_happens_in_which_order(tmp_path: Path, seed: int) -> None:
    """The bound holds at each step, and in the end each decision has its one charge, to the last nano-unit."""
    report = run(seed, tmp_path)
    print(report)
    assert report.decisions


@pytest.mark.parametrize("seed", range(SEEDS, SEEDS + SEEDS // 3))
def test_money_is_as_exact_on_postgresql(tmp_path: Path, postgres: PostgresServer, seed: int) -> None:
    """The same on the other store."""
    place = Database(asyncio.run(postgres.emptied_database()))
    report = run(seed, tmp_path, place=place)
    print(report)
    assert report.decisions


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]) -> None:
    """The simulation can fail: each fault breaks a promise that it checks."""
    fault(monkeypatch)
    found = next((cause for seed in range(_TRIES) if (cause := _found(seed, FAULTS[fault])) is not None), None)
    print(f"{fault.__name__}: {found}"[:300])
    assert isinstance(found, Violation)


def test_a_seed_brings_back_the_same_run() -> None:
    """So a failure can be looked into."""
    first, second = _run_apart(3), _run_apart(3)
    assert replace(first, seconds=0) == replace(second, seconds=0)


def test_the_model_shares_nothing_with_the_product() -> None:
    """It imports nothing but arithmetic and the calendar."""
    tree = ast.parse(Path(model.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= _ALLOWED


def _run_apart(seed: int, often: Sequence[str] = ()) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        return run(seed, Path(folder), often=often)


def _found(seed: int, often: Sequence[str]) -> BaseException | None:
    try:
        _run_apart(seed, often)
    except SimulationFailed as failure:
        return failure.__cause__
    return None
