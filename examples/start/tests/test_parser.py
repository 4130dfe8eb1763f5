"""Reading lines."""

import unittest

from tally.parser import parse, parse_line


class ParserTest(unittest.TestCase):
    """Lines become receipts."""

    def test_a_line_has_four_parts(self) -> None:
        row = parse_line("2026-03-02  groceries  18.45  Market hall")
        self.assertEqual(row, ("2026-03-02", "groceries", 18.45, "Market hall"))

    def test_a_shared_receipt_counts_one_share(self) -> None:
        self.assertEqual(parse_line("2026-03-12 travel 84.00 / 3 Rental car")[2], 28.0)

    def test_comments_and_empty_lines_are_left_out(self) -> None:
        self.assertEqual(parse("# March\n\n"), [])
