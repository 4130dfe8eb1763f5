"""Adding up."""

import unittest
from datetime import date
from decimal import Decimal

from tally.receipt import Receipt
from tally.totals import by_category, grand_total

RECEIPTS = [
    Receipt(date(2026, 3, 2), "groceries", Decimal("18.50"), "Market hall"),
    Receipt(date(2026, 3, 3), "travel", Decimal("6.00"), "Tram"),
    Receipt(date(2026, 3, 9), "groceries", Decimal("31.00"), "Café Lund"),
]


class TotalsTest(unittest.TestCase):
    """Receipts add up."""

    def test_categories_are_summed_and_sorted(self) -> None:
        self.assertEqual(by_category(RECEIPTS), {"groceries": Decimal("49.50"), "travel": Decimal("6.00")})

    def test_the_total_is_the_sum_of_all(self) -> None:
        self.assertEqual(grand_total(RECEIPTS), Decimal("55.50"))
