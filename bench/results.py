"""The rows: one for each target, with what was measured and whether that meets it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Target:
    """A row's name, what it is compared to, and whether that is the least or the most."""

    name: str
    limit: float
    unit: str = "ratio"
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A target and what each round measured."""

    target: Target
    rounds: Sequence[float]

    @property
    def value(self) -> float:
        """The median over the rounds."""
        return median(self.rounds)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target.limit if self.target.at_least else self.value <= self.target.limit

    @property
    def as_json(self) -> dict[str, str | float | bool]:
        """The row as it is written to results.json."""
        return {
            "name": self.target.name,
            "value": _rounded(self.value),
            "target": self.target.limit,
            "met": self.met,
            "min": _rounded(min(self.rounds)),
            "median": _rounded(self.value),
            "max": _rounded(max(self.rounds)),
            "unit": self.target.unit,
        }


def ratios(measured: Iterable[float], beside: Iterable[float]) -> list[float]:
    """Return, round by round, the one by the other."""
    return [one / other for one, other in zip(measured, beside, strict=True)]


def write(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Write the rows; those of parts that were not run stay as they were."""
    before = json.loads(path.read_text()) if path.exists() else []
    names = {row.target.name for row in rows}
    kept = [row for row in before if row["name"] not in names]
    path.write_text(json.dumps([*kept, *(row.as_json for row in rows)], indent=1, ensure_ascii=False) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people."""
    cells = [["", "target", "min", "median", "max", ""], *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(_aligned(line, widths)).rstrip() for line in cells)


def _cells(row: Row) -> list[str]:
    unit = "" if row.target.unit == "ratio" else f" {row.target.unit}"
    bound = f"{'≥' if row.target.at_least else '≤'} {_number(row.target.limit)}{unit}"
    numbers = [_number(value) for value in (min(row.rounds), row.value, max(row.rounds))]
    return [row.target.name, bound, *numbers, "met" if row.met else "MISSED"]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    name, *rest = (
        cell.ljust(width) if not at else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return [name, *rest]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
