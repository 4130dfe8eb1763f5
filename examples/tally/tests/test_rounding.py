"""Half cents, where the report and the bank disagreed."""

import unittest

from tally.parser import parse
from tally.totals import by_category, grand_total

SHELF = "2026-03-05  household  49.99 / 2  Shelf, shared with Jo"
BULBS = "2026-03-17  household  12.35 / 2  Light bulbs, shared with Jo"


class RoundingTest(unittest.TestCase):
    """Shares come out as the bank books them."""

    def test_half_a_cent_goes_up(self) -> None:
        self.assertEqual(str(grand_total(parse(BULBS))), "6.18")

    def test_each_share_is_rounded_before_it_is_summed(self) -> None:
        self.assertEqual(str(by_category(parse(f"{SHELF}\n{BULBS}"))["household"]), "31.18")
