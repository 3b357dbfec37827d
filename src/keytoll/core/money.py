"""Amounts: integers in nano-units (10^-9) of the deployment's one currency. No float ever touches money."""

import re

from keytoll.core.errors import InvalidValue

NANO = 1_000_000_000
MAX_LIMIT_NANO = 9_000_000_000 * NANO
"""The largest limit and price. It leaves room below 2^63 for the request that passes the limit."""

MAX_TOTAL_NANO = 2**63 - 1
"""What the stores' 64-bit columns hold. A total that would pass it is refused, never wrapped."""

_AMOUNT = re.compile(r"(\d{1,10})(?:\.(\d{1,9}))?", re.ASCII)
_SYMBOLS = {"CNY": "¥", "USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩"}


def parse_amount(text: str, *, field: str) -> int:
    """Return the nano-units of a decimal string such as `100`, `0.5` or `0.000001`.

    Raises InvalidValue, naming `field`, for a sign, an exponent, more than nine decimals or more than 9,000,000,000.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise InvalidValue(field, "must be a decimal amount of at most nine decimals, 0 or more, such as 100 or 0.25")
    whole, fraction = match.groups(default="")
    nano = int(whole) * NANO + int(fraction.ljust(9, "0"))
    if nano > MAX_LIMIT_NANO:
        raise InvalidValue(field, "must be at most 9,000,000,000")
    return nano


def format_amount(nano: int) -> str:
    """Return the exact decimal string of an amount, with two decimals or as many as it needs: `45.50`, `0.000014`."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, fraction = divmod(nano, NANO)
    return f"{sign}{whole}.{f'{fraction:09d}'.rstrip('0').ljust(2, '0')}"


def currency_symbol(currency: str) -> str:
    """Return what stands before an amount for people: `¥` for CNY, else the code and a space."""
    return _SYMBOLS.get(currency, currency + " ")


def add_totals(total_nano: int, amount_nano: int) -> int:
    """Return the sum. Raises OverflowError where the stores could not hold it: a ledger never wraps."""
    result = total_nano + amount_nano
    if not -MAX_TOTAL_NANO <= result <= MAX_TOTAL_NANO:
        raise OverflowError("a total would pass 64 bits")
    return result
