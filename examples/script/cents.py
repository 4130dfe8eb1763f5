"""A report that is one cent off: floats first, and then rounding in the wrong place."""

from recorder.session import Session

ROUNDING_TEST = '''"""Half cents, where the report and the bank disagreed."""

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
        self.assertEqual(str(by_category(parse(f"{SHELF}\\n{BULBS}"))["household"]), "31.18")
'''

MONEY = '''"""Amounts of money: exact decimals, rounded to the cent in one place."""

from decimal import ROUND_HALF_UP, Decimal

CENT = Decimal("0.01")


def to_cents(amount: Decimal) -> Decimal:
    """The amount to the cent; half a cent goes up, as the bank books it."""
    return amount.quantize(CENT, rounding=ROUND_HALF_UP)
'''

TOTALS_THAT_ROUND = '''"""Sums over receipts."""

from decimal import Decimal

from tally.money import to_cents


def by_category(rows: list[tuple]) -> dict[str, Decimal]:
    """Total of each category, in alphabetical order."""
    totals = {}
    for row in rows:
        totals[row[1]] = totals.get(row[1], Decimal(0)) + row[2]
    return {category: to_cents(totals[category]) for category in sorted(totals)}


def grand_total(rows: list[tuple]) -> Decimal:
    """Total of all receipts."""
    return to_cents(sum((row[2] for row in rows), Decimal(0)))
'''

TOTALS_THAT_ADD = '''"""Sums over receipts. Nothing is rounded here: amounts are in whole cents when they come."""

from decimal import Decimal


def by_category(rows: list[tuple]) -> dict[str, Decimal]:
    """Total of each category, in alphabetical order."""
    totals = {}
    for row in rows:
        totals[row[1]] = totals.get(row[1], Decimal(0)) + row[2]
    return {category: totals[category] for category in sorted(totals)}


def grand_total(rows: list[tuple]) -> Decimal:
    """Total of all receipts."""
    return sum((row[2] for row in rows), Decimal(0))
'''

FLOAT_ROWS = """import unittest

from tally.totals import by_category, grand_total

ROWS = [
    ("2026-03-02", "groceries", 18.5, "Market hall"),
    ("2026-03-03", "travel", 6.0, "Tram"),
    ("2026-03-09", "groceries", 31.0, "Café Lund"),
]
"""

DECIMAL_ROWS = """import unittest
from decimal import Decimal

from tally.totals import by_category, grand_total

ROWS = [
    ("2026-03-02", "groceries", Decimal("18.50"), "Market hall"),
    ("2026-03-03", "travel", Decimal("6.00"), "Tram"),
    ("2026-03-09", "groceries", Decimal("31.00"), "Café Lund"),
]
"""

FOUR_PARTS_FLOAT = '''import unittest

from tally.parser import parse, parse_line


class ParserTest(unittest.TestCase):
    """Lines become receipts."""

    def test_a_line_has_four_parts(self) -> None:
        row = parse_line("2026-03-02  groceries  18.45  Market hall")
        self.assertEqual(row, ("2026-03-02", "groceries", 18.45, "Market hall"))
'''

FOUR_PARTS_DECIMAL = '''import unittest
from decimal import Decimal

from tally.parser import parse, parse_line


class ParserTest(unittest.TestCase):
    """Lines become receipts."""

    def test_a_line_has_four_parts(self) -> None:
        row = parse_line("2026-03-02  groceries  18.45  Market hall")
        self.assertEqual(row, ("2026-03-02", "groceries", Decimal("18.45"), "Market hall"))
'''


def play(dev: Session) -> None:
    _look(dev)
    _make_exact(dev)
    _round_where_shares_are_taken(dev)
    dev.stop(
        "March is 148.63 now, as at the bank. There were two causes. Shares were floats: 12.35 / 2 is stored a little "
        "below 6.175 and rounded down. And totals were rounded after summing, while the bank books each share in whole "
        "cents. Amounts are Decimal now, `to_cents` in `tally/money.py` rounds half up, and only the parser calls it, "
        "once for each receipt. `tests/test_rounding.py` has both cases. I read the bank's totals and needed no login."
    )


def _look(dev: Session) -> None:
    dev.prompt(
        "March is one cent off: tally prints 148.62, my bank says 148.63, and household is the category that "
        "differs. Find out why and fix it, with a test. The folder is not under git yet, please begin with that. "
        "If the bank tool asks: <private>login mk-4471, code 9042-EXAMPLE</private>, read only please."
    )
    dev.say("I'll look around first, then put the folder under git and compare the report with the bank.")
    dev.use("Glob", pattern="**/*.py")
    dev.read("README.md")
    dev.read("tally/parser.py")
    dev.read("tally/totals.py")
    dev.bash(
        "git init -b main && git add . && git commit -q -m 'tally as it is' && git log --oneline",
        "Put the folder under git",
    )
    dev.bash("python3 -m tally sample/march.txt", "Run the March report")
    dev.use("mcp__bank__month_totals", month="2026-03")
    dev.think(
        "Household: 31.17 here, 31.18 at the bank. Two receipts are shared: 49.99 / 2 = 24.995 and 12.35 / 2 = 6.175. "
        "Both end in half a cent, so this is about rounding. The sum is exactly 31.17, the rounded shares give 31.18."
    )
    dev.say("Only household differs: 31.17 here, 31.18 there. Both household receipts are shares with half a cent.")
    dev.use("Grep", pattern=r"round\(|float\(", output_mode="content", glob="tally/*.py")
    dev.bash(
        'python3 -c "from decimal import Decimal; print(round(12.35 / 2, 2)); print(Decimal(12.35 / 2))"',
        "See what the float of a share really is",
    )


def _make_exact(dev: Session) -> None:
    dev.say(
        "The float of 6.175 lies a little below it, so it rounds down to 6.17. I'll write the failing tests first: "
        "one for half a cent, one for the sum of two shares."
    )
    dev.todo(
        ("in_progress", "Write failing tests for half cents"),
        ("pending", "Use exact amounts in parser and totals"),
        ("pending", "Check March against the bank"),
    )
    dev.write("tests/test_rounding.py", ROUNDING_TEST)
    dev.bash("python3 -m unittest", "Run all tests")
    dev.think(
        "Decimal or whole cents as int? Sums would be fine with int, but a share needs a fraction of a cent before it "
        "is rounded, and Decimal prints and formats as before. Decimal it is, with one rounding function."
    )
    dev.say(
        "Both fail, as expected. Decision: Decimal and not whole cents as int. A share has fractions of a cent before "
        "it is rounded, and Decimal keeps the amounts as they are written. Rounding goes into one function, "
        "`to_cents`, half up as the bank does."
    )
    dev.write("tally/money.py", MONEY)
    dev.edit("tally/parser.py", "import re\n", "import re\nfrom decimal import Decimal\n")
    dev.edit("tally/parser.py", "float(amount) / int(people or 1)", "Decimal(amount) / int(people or 1)")
    dev.write("tally/totals.py", TOTALS_THAT_ROUND)
    dev.edit("tests/test_totals.py", FLOAT_ROWS, DECIMAL_ROWS)
    dev.bash("python3 -m unittest 2>&1 | tail -n 30", "Run all tests")


def _round_where_shares_are_taken(dev: Session) -> None:
    dev.think(
        "test_a_line_has_four_parts compares Decimal('18.45') with the float 18.45, which are not equal: the test is "
        "to be changed. The sum is still 31.17: I round after summing, the bank rounds each booking."
    )
    dev.say(
        "Half a cent is right now, but the sum is still 31.17: exact amounts alone are not the fix. The totals round "
        "after summing, while the bank books each share in whole cents. So a share has to be rounded where it is "
        "taken, in the parser, and totals must only add. The other failure is a test that compares with a float."
    )
    dev.edit(
        "tally/parser.py",
        "Decimal(amount) / int(people or 1), note",
        "to_cents(Decimal(amount) / int(people or 1)), note",
    )
    dev.edit(
        "tally/parser.py",
        "from decimal import Decimal\n",
        "from decimal import Decimal\n\nfrom tally.money import to_cents\n",
    )
    dev.write("tally/totals.py", TOTALS_THAT_ADD)
    dev.edit("tests/test_parser.py", FOUR_PARTS_FLOAT, FOUR_PARTS_DECIMAL)
    dev.bash("python3 -m unittest", "Run all tests")
    dev.bash("python3 -m tally sample/march.txt", "Run the March report again")
    dev.bash("grep -n 'float' tally/*.py", "Look for floats that are left")
    dev.todo(
        ("completed", "Write failing tests for half cents"),
        ("completed", "Use exact amounts in parser and totals"),
        ("completed", "Check March against the bank"),
    )
    dev.bash(
        "git add . && git commit -q -m 'Round each share to the cent, half up, as the bank does' "
        "&& git show --stat --oneline",
        "Commit the fix",
    )
