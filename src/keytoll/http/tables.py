"""CSV for spreadsheets, which take a cell for a formula if it begins like one."""

import csv
import io
from collections.abc import Sequence

from keytoll.http.contract.charges import ChargeOut

CSV = "text/csv"

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r")  # some take the full-width ones too
_CHOSEN_BY_PEOPLE = ("key_name", "owner", "model")


def charges_csv(charges: Sequence[ChargeOut]) -> str:
    """Return the charges as a table, one line each, below the names of their fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ChargeOut.model_fields))
    writer.writeheader()
    writer.writerows(_row(charge) for charge in charges)
    return text.getvalue()


def _row(charge: ChargeOut) -> dict[str, object]:
    row = charge.model_dump(mode="json")
    return row | {name: _harmless(row[name]) for name in _CHOSEN_BY_PEOPLE}


def _harmless(cell: str | None) -> str | None:
    """Return a text that no spreadsheet computes: as a person would write it to have it taken as it is."""
    return f"'{cell}" if cell is not None and cell.lstrip(" ").startswith(_FORMULA) else cell
