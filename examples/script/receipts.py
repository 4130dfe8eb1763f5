"""Tuples become a type, in every file at once."""

from recorder.session import Session

RECEIPT = '''"""What is added up."""

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
'''

OLD_PARSE_LINE = '''def parse_line(line: str) -> tuple:
    """One receipt as (day, category, amount, note); the amount is the share when people are given."""
    match = LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f"not a receipt: {line.strip()!r}")
    day, category, amount, people, note = match.groups()
    return parse_day(day), category, to_cents(parse_amount(amount) / int(people or 1)), note
'''

NEW_PARSE_LINE = '''def parse_line(line: str) -> Receipt:
    """One receipt; its amount is the share when people are given. ValueError says what is wrong with the line."""
    match = LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f"not a receipt: {line.strip()!r}")
    day, category, amount, people, note = match.groups()
    return Receipt(parse_day(day), category, to_cents(parse_amount(amount) / int(people or 1)), note)
'''

OLD_PARSE = '''def parse(text: str) -> list[tuple]:
    """All receipts of a file's text, without comments and empty lines; ParseError names a line that is none."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            try:
                rows.append(parse_line(line))
            except ValueError as error:
                raise ParseError(f"line {number}: {error}") from error
    return rows
'''

NEW_PARSE = OLD_PARSE.replace("list[tuple]", "list[Receipt]").replace("rows", "receipts")

TOTALS = '''"""Sums over receipts."""

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
'''

REPORT = '''"""The report, as text and as JSON."""

import json

from tally.receipt import Receipt
from tally.totals import by_category, grand_total

WIDTH = 24


def render(receipts: list[Receipt]) -> str:
    """A line for each category, a rule, and the total."""
    lines = [f"{category:<14}{total:>10.2f}" for category, total in by_category(receipts).items()]
    return "\\n".join([*lines, "-" * WIDTH, f"{'total':<14}{grand_total(receipts):>10.2f}"])


def render_json(receipts: list[Receipt]) -> str:
    """The same as JSON. Amounts are strings, so that no reader makes floats of them."""
    categories = {category: f"{total:.2f}" for category, total in by_category(receipts).items()}
    return json.dumps({"categories": categories, "total": f"{grand_total(receipts):.2f}"}, indent=2)
'''

OLD_MAIN = """    try:
        rows = parse(Path(args.file).read_text(encoding="utf-8"))
    except ParseError as error:
        print(f"tally: {args.file}, {error}", file=sys.stderr)
        return 2
    if args.since:
        rows = [row for row in rows if row[0] >= args.since]
    print(render_json(rows) if args.json else render(rows))
"""

NEW_MAIN = """    try:
        receipts = parse(Path(args.file).read_text(encoding="utf-8"))
    except ParseError as error:
        print(f"tally: {args.file}, {error}", file=sys.stderr)
        return 2
    if args.since:
        receipts = [receipt for receipt in receipts if receipt.day >= args.since]
    print(render_json(receipts) if args.json else render(receipts))
"""

OLD_PARSER_TESTS = '''from tally.parser import ParseError, parse, parse_line


class ParserTest(unittest.TestCase):
    """Lines become receipts."""

    def test_a_line_has_four_parts(self) -> None:
        row = parse_line("2026-03-02  groceries  18.45  Market hall")
        self.assertEqual(row, (date(2026, 3, 2), "groceries", Decimal("18.45"), "Market hall"))

    def test_a_shared_receipt_counts_one_share(self) -> None:
        self.assertEqual(parse_line("2026-03-12 travel 84.00 / 3 Rental car")[2], 28.0)
'''

NEW_PARSER_TESTS = '''from tally.parser import ParseError, parse, parse_line
from tally.receipt import Receipt


class ParserTest(unittest.TestCase):
    """Lines become receipts."""

    def test_a_line_has_four_parts(self) -> None:
        receipt = parse_line("2026-03-02  groceries  18.45  Market hall")
        self.assertEqual(receipt, Receipt(date(2026, 3, 2), "groceries", Decimal("18.45"), "Market hall"))

    def test_a_shared_receipt_counts_one_share(self) -> None:
        self.assertEqual(parse_line("2026-03-12 travel 84.00 / 3 Rental car").amount, Decimal("28.00"))
'''

TOTALS_TEST = '''"""Adding up."""

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
'''

NOBODY_TEST = """
    def test_a_receipt_shared_by_nobody_is_refused(self) -> None:
        with self.assertRaisesRegex(ParseError, "line 1: shared by nobody"):
            parse("2026-03-12 travel 84.00 / 0 Rental car")
"""

DECISIONS = """# Decisions

## Amounts are Decimal, rounded where a share is taken

Floats made March one cent too small: 12.35 / 2 is stored a little below 6.175 and rounds down. Whole cents as
int were the other choice; a share has fractions of a cent before it is rounded, so Decimal it is. Rounding after
summing is wrong even with Decimal, since the bank books each share in whole cents: only the parser rounds.

## `1.204` is refused

It is more than a thousand in one country and one and a bit in another. A wrong guess is wrong by a factor of a
thousand; an error with the line's number costs a minute.

## Receipt is a frozen dataclass, not a NamedTuple

A NamedTuple would still answer to `row[2]` and to unpacking, so that a swapped field goes unnoticed, and it is equal
to any tuple with the same values. The dataclass has names only.
"""


def play(dev: Session) -> None:
    dev.prompt(
        "The rows are plain tuples and I keep forgetting what row[2] is. Make a proper type of them, everywhere. "
        "NamedTuple or dataclass: you decide, but write down why, and the earlier decisions with it."
    )
    dev.say("I'll have every place found first that depends on the tuple's shape, so that none is forgotten.")
    dev.task(
        "Find uses of row tuples",
        "List every place in /home/dev/tally that depends on the shape of a receipt's tuple: indexing, unpacking, "
        "building and comparing, tests included. Also try odd receipts on the parser and report what is not handled.",
        ("Grep", {"pattern": r"row\[\d\]|\)\[2\]", "output_mode": "content", "glob": "**/*.py"}),
        ("Grep", {"pattern": r"ROWS|parse_line\(", "output_mode": "files_with_matches", "glob": "tests/*.py"}),
        ("Read", {"file_path": "/home/dev/tally/tally/parser.py"}),
        (
            "Bash",
            {
                "command": "printf '2026-03-12 travel 84.00 / 0 Rental car\\n' "
                "| python3 -m tally /dev/stdin 2>&1 | tail -n 1",
                "description": "Try a receipt that nobody shares",
            },
        ),
        agent_type="Explore",
        answer=(
            "Indexing: tally/totals.py (row[1] and row[2]) and tally/cli.py (row[0]). Building: parse_line in "
            "tally/parser.py and ROWS in tests/test_totals.py. Tests that index or compare: tests/test_parser.py. "
            "tally/report.py only passes rows on. Not handled: `84.00 / 0` ends in a traceback, "
            "decimal.DivisionByZero, because that is an ArithmeticError and not a ValueError."
        ),
    )
    dev.think(
        "NamedTuple would be the smaller change, but row[2] would go on working, which is what is to end, and it is "
        "equal to plain tuples. A frozen dataclass with slots. And the division by zero gets a test and a message."
    )
    dev.say(
        "Decision: a frozen dataclass. A NamedTuple would still answer to `row[2]` and be equal to any tuple with the "
        "same values, so forgotten places would go on working unseen. The search also found a bug: `/ 0` gives a "
        "traceback. That comes last."
    )
    dev.todo(
        ("in_progress", "Add Receipt and use it in parser, totals, report and cli"),
        ("pending", "Move the tests to Receipt"),
        ("pending", "Refuse a receipt shared by nobody"),
        ("pending", "Write DECISIONS.md"),
    )
    dev.write("tally/receipt.py", RECEIPT)
    dev.edit("tally/parser.py", OLD_PARSE_LINE, NEW_PARSE_LINE)
    dev.edit("tally/parser.py", OLD_PARSE, NEW_PARSE)
    dev.edit(
        "tally/parser.py",
        "from tally.money import parse_amount, to_cents\n",
        "from tally.money import parse_amount, to_cents\nfrom tally.receipt import Receipt\n",
    )
    dev.write("tally/totals.py", TOTALS)
    dev.write("tally/report.py", REPORT)
    dev.bash("python3 -m unittest 2>&1 | grep -E '^(ERROR|FAIL|[A-Z][A-Za-z]+Error|Ran|FAILED)'", "See what breaks")
    dev.say(
        "What breaks is what the search named: `row[0]` in the command line, and the tests that index or build tuples."
    )
    dev.edit("tally/cli.py", OLD_MAIN, NEW_MAIN)
    dev.write("tests/test_totals.py", TOTALS_TEST)
    dev.edit("tests/test_parser.py", OLD_PARSER_TESTS, NEW_PARSER_TESTS)
    dev.edit("tests/test_parser.py", ")[2], ", ").amount, ", everywhere=True)
    dev.bash("python3 -m unittest", "Run all tests")
    dev.say("All pass. Now `/ 0`, with its test first.")
    dev.edit(
        "tests/test_parser.py",
        "    def test_comments_and_empty_lines_are_left_out",
        NOBODY_TEST.lstrip("\n") + "\n    def test_comments_and_empty_lines_are_left_out",
    )
    dev.bash("python3 -m unittest tests.test_parser", "See the new test fail")
    dev.edit(
        "tally/parser.py",
        "    day, category, amount, people, note = match.groups()\n",
        "    day, category, amount, people, note = match.groups()\n"
        '    if people is not None and int(people) == 0:\n        raise ValueError("shared by nobody")\n',
    )
    dev.bash("python3 -m unittest", "Run all tests")
    dev.use("Grep", pattern=r"row\[|\brows\b", glob="**/*.py")
    dev.write("DECISIONS.md", DECISIONS)
    dev.todo(
        ("completed", "Add Receipt and use it in parser, totals, report and cli"),
        ("completed", "Move the tests to Receipt"),
        ("completed", "Refuse a receipt shared by nobody"),
        ("completed", "Write DECISIONS.md"),
    )
    dev.bash(
        "git add . && git commit -q -m 'Give receipts a type, and refuse one shared by nobody' "
        "&& git show --stat --oneline",
        "Commit the refactoring",
    )
    dev.stop(
        "Receipts are `Receipt`, a frozen dataclass in `tally/receipt.py`, in parser, totals, report, command line and "
        "tests. Not a NamedTuple, since `row[2]` would have gone on working. On the way `84.00 / 0` turned out to end "
        "in decimal.DivisionByZero; it is refused now with `shared by nobody`. DECISIONS.md has the three decisions."
    )
