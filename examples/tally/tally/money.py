"""Amounts of money: exact decimals, read and rounded to the cent in one place."""

import re
from decimal import ROUND_HALF_UP, Decimal

CENT = Decimal("0.01")
PLAIN = re.compile(r"\d+([.,]\d{1,2})?")
GROUPED = re.compile(r"\d{1,3}((\.\d{3})+,\d{2}|(,\d{3})+\.\d{2})")


def to_cents(amount: Decimal) -> Decimal:
    """The amount to the cent; half a cent goes up, as the bank books it."""
    return amount.quantize(CENT, rounding=ROUND_HALF_UP)


def parse_amount(text: str) -> Decimal:
    """`12.50`, `12,50`, `1.204,50` or `1,204.50`; ValueError for anything else.

    `1.204` is refused, not guessed: it is a thousand and more to some, one and a bit to others.
    """
    if not (PLAIN.fullmatch(text) or GROUPED.fullmatch(text)):
        raise ValueError(f"not an amount: {text!r}")
    mark = max(text.rfind("."), text.rfind(","))
    if mark < 0:
        return Decimal(text)
    whole = text[:mark].replace(".", "").replace(",", "")
    return Decimal(f"{whole}.{text[mark + 1 :]}")
