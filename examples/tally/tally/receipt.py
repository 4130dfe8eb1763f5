"""What is added up."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt; the amount is what one person paid of it, in whole cents."""

    day: date
    category: str
    amount: Decimal
    note: str
