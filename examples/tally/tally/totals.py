"""Sums over receipts."""

from collections.abc import Iterable
from decimal import Decimal

from tally.receipt import Receipt


def by_category(receipts: Iterable[Receipt]) -> dict[str, Decimal]:
    """Total of each category, in alphabetical order."""
    totals: dict[str, Decimal] = {}
    for receipt in receipts:
        totals[receipt.category] = totals.get(receipt.category, Decimal(0)) + receipt.amount
    return {category: totals[category] for category in sorted(totals)}


def grand_total(receipts: Iterable[Receipt]) -> Decimal:
    """Total of all receipts."""
    return sum((receipt.amount for receipt in receipts), Decimal(0))
