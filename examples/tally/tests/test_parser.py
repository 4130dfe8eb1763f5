"""Reading lines."""

import unittest
from datetime import date
from decimal import Decimal

from tally.parser import ParseError, parse, parse_line
from tally.receipt import Receipt


class ParserTest(unittest.TestCase):
    """Lines become receipts."""

    def test_a_line_has_four_parts(self) -> None:
        receipt = parse_line("2026-03-02  groceries  18.45  Market hall")
        self.assertEqual(receipt, Receipt(date(2026, 3, 2), "groceries", Decimal("18.45"), "Market hall"))

    def test_a_shared_receipt_counts_one_share(self) -> None:
        self.assertEqual(parse_line("2026-03-12 travel 84.00 / 3 Rental car").amount, Decimal("28.00"))

    def test_a_receipt_shared_by_nobody_is_refused(self) -> None:
        with self.assertRaisesRegex(ParseError, "line 1: shared by nobody"):
            parse("2026-03-12 travel 84.00 / 0 Rental car")

    def test_comments_and_empty_lines_are_left_out(self) -> None:
        self.assertEqual(parse("# March\n\n"), [])

    def test_a_decimal_comma_is_read(self) -> None:
        self.assertEqual(parse_line("2026-03-09 groceries 31,20 Café Lund").amount, Decimal("31.20"))

    def test_thousands_may_be_marked(self) -> None:
        self.assertEqual(parse_line("2026-03-30 travel 1.204,50 Train").amount, Decimal("1204.50"))
        self.assertEqual(parse_line("2026-03-30 travel 1,204.50 Train").amount, Decimal("1204.50"))

    def test_an_amount_of_two_meanings_is_refused(self) -> None:
        with self.assertRaisesRegex(ParseError, "line 2: not an amount: '1.204'"):
            parse("# March\n2026-03-30 travel 1.204 Train")

    def test_a_line_that_is_no_receipt_is_named(self) -> None:
        with self.assertRaisesRegex(ParseError, "line 3: not a receipt: 'bread'"):
            parse("# March\n\nbread")
