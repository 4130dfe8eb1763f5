"""A file that the parser dies on: decimal commas, and errors that name the line."""

from recorder.session import Session

PARSER_TESTS = """
    def test_a_decimal_comma_is_read(self) -> None:
        self.assertEqual(parse_line("2026-03-09 groceries 31,20 Café Lund")[2], Decimal("31.20"))

    def test_thousands_may_be_marked(self) -> None:
        self.assertEqual(parse_line("2026-03-30 travel 1.204,50 Train")[2], Decimal("1204.50"))
        self.assertEqual(parse_line("2026-03-30 travel 1,204.50 Train")[2], Decimal("1204.50"))

    def test_an_amount_of_two_meanings_is_refused(self) -> None:
        with self.assertRaisesRegex(ParseError, "line 2: not an amount: '1.204'"):
            parse("# March\\n2026-03-30 travel 1.204 Train")

    def test_a_line_that_is_no_receipt_is_named(self) -> None:
        with self.assertRaisesRegex(ParseError, "line 3: not a receipt: 'bread'"):
            parse("# March\\n\\nbread")
"""

MONEY = '''"""Amounts of money: exact decimals, read and rounded to the cent in one place."""

import re
from decimal import ROUND_HALF_UP, Decimal

CENT = Decimal("0.01")
PLAIN = re.compile(r"\\d+([.,]\\d{1,2})?")
GROUPED = re.compile(r"\\d{1,3}((\\.\\d{3})+,\\d{2}|(,\\d{3})+\\.\\d{2})")


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
'''

OLD_HEAD = """import re
from decimal import Decimal

from tally.money import to_cents

LINE = re.compile(r"(\\S+)\\s+(\\S+)\\s+([\\d.,]+)(?:\\s*/\\s*(\\d+))?\\s+(.+)")
"""

NEW_HEAD = '''import re

from tally.money import parse_amount, to_cents

LINE = re.compile(r"(\\S+)\\s+(\\S+)\\s+([\\d.,]+)(?:\\s*/\\s*(\\d+))?\\s+(.+)")


class ParseError(ValueError):
    """A line is not a receipt; the message says which line and why."""
'''

OLD_BODY = '''    day, category, amount, people, note = match.groups()
    return day, category, to_cents(Decimal(amount.replace(",", ".")) / int(people or 1)), note


def parse(text: str) -> list[tuple]:
    """All receipts of a file's text, without comments and empty lines."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return list(map(parse_line, lines))
'''

NEW_BODY = '''    if match is None:
        raise ValueError(f"not a receipt: {line.strip()!r}")
    day, category, amount, people, note = match.groups()
    return day, category, to_cents(parse_amount(amount) / int(people or 1)), note


def parse(text: str) -> list[tuple]:
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

CLI = '''"""The command line."""

import argparse
import sys
from pathlib import Path

from tally.parser import ParseError, parse
from tally.report import render


def main(argv: list[str] | None = None) -> int:
    """Print the report of one file and return the exit status."""
    options = argparse.ArgumentParser(prog="tally", description="Adds up receipts by category.")
    options.add_argument("file", help="receipts, one a line")
    args = options.parse_args(argv)
    try:
        rows = parse(Path(args.file).read_text(encoding="utf-8"))
    except ParseError as error:
        print(f"tally: {args.file}, {error}", file=sys.stderr)
        return 2
    print(render(rows))
    return 0
'''


def play(dev: Session) -> None:
    dev.prompt(
        "The phone app exports receipts too, there is one in sample/phone.txt, but tally dies on it. Make it read such "
        "files. And a bad line should give one clear message and not a traceback."
    )
    dev.bash("python3 -m tally sample/phone.txt", "Run tally on the phone's file")
    dev.say("`Decimal` refuses the comma in `31,20`. Let me see what else the app writes.")
    dev.read("sample/phone.txt")
    dev.read("tests/test_parser.py")
    dev.think(
        "Decimal commas, unpadded days, and 1.204,50 with a mark for thousands. What is 1.204 alone? Ambiguous. "
        "Refusing with the line's number is better than being wrong by a factor of a thousand."
    )
    dev.say("It writes decimal commas and `1.204,50`. Tests first, with the line's number in the error.")
    dev.edit(
        "tests/test_parser.py",
        '        self.assertEqual(parse("# March\\n\\n"), [])\n',
        '        self.assertEqual(parse("# March\\n\\n"), [])\n' + PARSER_TESTS,
    )
    dev.edit("tests/test_parser.py", "import parse, parse_line\n", "import ParseError, parse, parse_line\n")
    dev.bash("python3 -m unittest tests.test_parser 2>&1 | tail -n 9", "Run the parser's tests")
    dev.say("Now the smallest thing that could work: take the comma for a point.")
    dev.edit("tally/parser.py", "Decimal(amount)", 'Decimal(amount.replace(",", "."))')
    dev.bash("python3 -m tally sample/phone.txt 2>&1 | tail -n 2", "Run tally on the phone's file")
    dev.say(
        "`31,20` is read, `1.204,50` becomes `1.204.50` and fails. Amounts need a reader of their own, so it goes into "
        "`money.py`: the last mark is the decimal one, and `1.204` with no cents is refused, since it could mean "
        "either."
    )
    dev.write("tally/money.py", MONEY)
    dev.edit("tally/parser.py", "to_cents(Decimal(amount) /", "to_cents(parse_amount(amount) /")
    dev.say("That line reads otherwise since my last edit; I'll look at it again.")
    dev.read("tally/parser.py", offset=10, limit=12)
    dev.edit("tally/parser.py", OLD_BODY, NEW_BODY)
    dev.edit("tally/parser.py", OLD_HEAD, NEW_HEAD)
    dev.write("tally/cli.py", CLI)
    dev.bash("python3 -m unittest 2>&1 | tail -n 4", "Run all tests")
    dev.bash("python3 -m tally sample/phone.txt", "Run tally on the phone's file")
    dev.bash(
        "printf '2026-03-30 travel 1.204 Train\\n' | python3 -m tally /dev/stdin",
        "See what a bad amount gives",
    )
    dev.bash(
        "git commit -q -am 'Read decimal commas, and name the line that cannot be read' && git log --oneline",
        "Commit",
    )
    dev.stop(
        "tally reads the phone's files: `31,20`, `1.204,50` and `1,204.50` are all understood by `parse_amount` in "
        "`tally/money.py`. `1.204` alone is refused, because it could be a thousand or one and a bit. A bad line "
        "gives one message with file and line on stderr and exit status 2."
    )
