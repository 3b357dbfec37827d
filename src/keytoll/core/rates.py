"""Rates: what an estimate counts by, where a backend reported no usage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Thousandths of a token for an input byte, an output byte, and an event of a stream.

    The default is the usual rule of thumb, four bytes a token, and a token an event, as most servers stream.
    """

    input_byte: int = 250
    output_byte: int = 250
    event: int = 1000
