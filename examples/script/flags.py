"""Two flags for the command line, and a comparison of days that was one of strings."""

from recorder.session import Session

CLI_TEST = '''"""The command line."""

import contextlib
import io
import json
import unittest

from tally.cli import main


def run(*argv: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one call."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(argv))
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


class CliTest(unittest.TestCase):
    """What the flags do."""

    def test_since_leaves_out_earlier_days(self) -> None:
        _, out, _ = run("--since", "2026-03-15", "sample/march.txt")
        self.assertIn("39.83", out)

    def test_since_counts_the_day_itself(self) -> None:
        _, out, _ = run("--since", "2026-03-28", "sample/march.txt")
        self.assertIn("9.95", out)

    def test_since_compares_days_however_they_are_written(self) -> None:
        status, out, _ = run("--since", "2026-03-15", "sample/phone.txt")
        self.assertEqual(status, 0)
        self.assertNotIn("groceries", out)

    def test_a_day_that_is_none_is_refused(self) -> None:
        status, _, err = run("--since", "soon", "sample/march.txt")
        self.assertEqual(status, 2)
        self.assertIn("not a day: 'soon'", err)

    def test_json_keeps_amounts_as_text(self) -> None:
        status, out, _ = run("--json", "sample/march.txt")
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(out)["categories"]["household"], "31.18")
        self.assertEqual(json.loads(out)["total"], "148.63")
'''

REPORT = '''"""The report, as text and as JSON."""

import json

from tally.totals import by_category, grand_total

WIDTH = 24


def render(rows: list[tuple]) -> str:
    """A line for each category, a rule, and the total."""
    lines = [f"{category:<14}{total:>10.2f}" for category, total in by_category(rows).items()]
    return "\\n".join([*lines, "-" * WIDTH, f"{'total':<14}{grand_total(rows):>10.2f}"])


def render_json(rows: list[tuple]) -> str:
    """The same as JSON. Amounts are strings, so that no reader makes floats of them."""
    categories = {category: f"{total:.2f}" for category, total in by_category(rows).items()}
    return json.dumps({"categories": categories, "total": f"{grand_total(rows):.2f}"}, indent=2)
'''

OLD_OPTIONS = """    options.add_argument("file", help="receipts, one a line")
    args = options.parse_args(argv)
"""

TEXT_OPTIONS = """    options.add_argument("file", help="receipts, one a line")
    options.add_argument("--since", metavar="DAY", default="", help="leave out receipts before this day")
    options.add_argument("--json", action="store_true", help="print the totals as JSON")
    args = options.parse_args(argv)
"""

DAY_READER = '''

def day(text: str) -> date:
    """A day given on the command line; argparse makes a usage error of one that is none."""
    try:
        return parse_day(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a day: {text!r}") from None


def main('''

PARSE_DAY = '''

def parse_day(text: str) -> date:
    """`2026-03-09`, or `2026-3-9` as the phone app writes it; ValueError for anything else."""
    return date.fromisoformat("-".join(part.rjust(2, "0") for part in text.split("-")))
'''


def play(dev: Session) -> None:
    dev.prompt(
        "Add `--since DAY`, so that I can look at the second half of a month, and `--json` for the script that feeds "
        "my spreadsheet. Tests first, please."
    )
    dev.use_together(
        ("Read", {"file_path": "/home/dev/tally/tally/cli.py"}),
        ("Read", {"file_path": "/home/dev/tally/tally/report.py"}),
    )
    dev.say("I'll write the tests on the two sample files, with the exact totals of March.")
    dev.write("tests/test_cli.py", CLI_TEST)
    dev.bash("python3 -m unittest tests.test_cli", "Run the new tests")
    dev.say("All fail for the right reason, the flags do not exist. Now the flags.")
    dev.edit("tally/cli.py", OLD_OPTIONS, TEXT_OPTIONS)
    dev.edit(
        "tally/cli.py",
        "    print(render(rows))\n",
        "    rows = [row for row in rows if row[0] >= args.since]\n"
        "    print(render_json(rows) if args.json else render(rows))\n",
    )
    dev.edit("tally/cli.py", "from tally.report import render\n", "from tally.report import render, render_json\n")
    dev.write("tally/report.py", REPORT)
    dev.bash("python3 -m unittest tests.test_cli 2>&1 | tail -n 24", "Run the new tests")
    dev.say("Three pass. A receipt of 9 March comes through `--since 2026-03-15`; let me try the comparison alone.")
    dev.bash("python3 -c \"print('2026-3-9' >= '2026-03-15')\"", "Compare the two days as they are compared now")
    _compare_dates(dev)
    dev.compact(
        "The work so far: tally adds up receipts by category. Amounts are Decimal, each share is rounded to the cent "
        "half up in the parser (tally/money.py, to_cents), totals only add. Phone exports with decimal commas are "
        "read, 1.204 is refused. --since and --json exist, days are dates (parse_day). All tests pass, everything is "
        "committed."
    )


def _compare_dates(dev: Session) -> None:
    dev.think(
        "As text '3' is greater than '0', so 2026-3-9 is after 2026-03-15. Days must become dates in the parser, once, "
        "and the flag must be read by the same function; then a bad --since is refused by argparse as well."
    )
    dev.say(
        "The days are compared as text, and the phone writes `2026-3-9` without zeros: `3` sorts after `0`. Padding "
        "in the comparison would hide it. Days become dates where they are read, and the flag uses the same function."
    )
    dev.edit(
        "tally/parser.py",
        "    return day, category, to_cents(parse_amount(amount) / int(people or 1)), note\n",
        "    return parse_day(day), category, to_cents(parse_amount(amount) / int(people or 1)), note\n" + PARSE_DAY,
    )
    dev.edit("tally/parser.py", "import re\n", "import re\nfrom datetime import date\n")
    dev.edit("tally/cli.py", 'metavar="DAY", default="",', 'metavar="DAY", type=day,')
    dev.edit(
        "tally/cli.py",
        "    rows = [row for row in rows if row[0] >= args.since]\n",
        "    if args.since:\n        rows = [row for row in rows if row[0] >= args.since]\n",
    )
    dev.edit(
        "tally/cli.py",
        "import sys\nfrom pathlib import Path\n\nfrom tally.parser import ParseError, parse\n",
        "import sys\nfrom datetime import date\nfrom pathlib import Path\n\n"
        "from tally.parser import ParseError, parse, parse_day\n",
    )
    dev.edit("tally/cli.py", "\n\ndef main(", DAY_READER)
    dev.bash("python3 -m unittest 2>&1 | tail -n 20", "Run all tests")
    dev.say("One test of the parser still expects the day as text.")
    dev.edit(
        "tests/test_parser.py",
        'self.assertEqual(row, ("2026-03-02", ',
        "self.assertEqual(row, (date(2026, 3, 2), ",
    )
    dev.edit("tests/test_parser.py", "import unittest\n", "import unittest\nfrom datetime import date\n")
    dev.bash("python3 -m unittest", "Run all tests")
    dev.bash("python3 -m tally --since 2026-03-15 --json sample/march.txt", "Try both flags")
    dev.bash("python3 -m tally --since soon sample/march.txt", "Try a day that is none")
    dev.bash("git add . && git diff --cached --stat && git commit -q -m 'Add --since and --json'", "Commit the flags")
    dev.stop(
        "`--since DAY` leaves out earlier receipts and counts the day itself; `--json` prints totals with amounts as "
        "strings, so that no script makes floats of them. One bug came up: days were compared as text, and the phone's "
        "`2026-3-9` sorted after `2026-03-15`. They are dates now, read by `parse_day` for file and flag alike."
    )
