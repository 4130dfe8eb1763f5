"""The command line."""

import argparse
import sys
from datetime import date
from pathlib import Path

from tally.parser import ParseError, parse, parse_day
from tally.report import render, render_json


def day(text: str) -> date:
    """A day given on the command line; argparse makes a usage error of one that is none."""
    try:
        return parse_day(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a day: {text!r}") from None


def main(argv: list[str] | None = None) -> int:
    """Print the report of one file and return the exit status."""
    options = argparse.ArgumentParser(prog="tally", description="Adds up receipts by category.")
    options.add_argument("file", help="receipts, one a line")
    options.add_argument("--since", metavar="DAY", type=day, help="leave out receipts before this day")
    options.add_argument("--json", action="store_true", help="print the totals as JSON")
    args = options.parse_args(argv)
    try:
        receipts = parse(Path(args.file).read_text(encoding="utf-8"))
    except ParseError as error:
        print(f"tally: {args.file}, {error}", file=sys.stderr)
        return 2
    if args.since:
        receipts = [receipt for receipt in receipts if receipt.day >= args.since]
    print(render_json(receipts) if args.json else render(receipts))
    return 0
