"""Adding up."""

import unittest

from tally.totals import by_category, grand_total

ROWS = [
    ("2026-03-02", "groceries", 18.5, "Market hall"),
    ("2026-03-03", "travel", 6.0, "Tram"),
    ("2026-03-09", "groceries", 31.0, "Café Lund"),
]


class TotalsTest(unittest.TestCase):
    """Receipts add up."""

    def test_categories_are_summed_and_sorted(self) -> None:
        self.assertEqual(by_category(ROWS), {"groceries": 49.5, "travel": 6.0})

    def test_the_total_is_the_sum_of_all(self) -> None:
        self.assertEqual(grand_total(ROWS), 55.5)
