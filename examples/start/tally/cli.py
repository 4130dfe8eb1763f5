"""The command line."""

import argparse
from pathlib import Path

from tally.parser import parse
from tally.report import render


def main(argv: list[str] | None = None) -> int:
    """Print the report of one file and return the exit status."""
    options = argparse.ArgumentParser(prog="tally", description="Adds up receipts by category.")
    options.add_argument("file", help="receipts, one a line")
    args = options.parse_args(argv)
    rows = parse(Path(args.file).read_text(encoding="utf-8"))
    print(render(rows))
    return 0
