"""Reads receipts, one a line: `DAY CATEGORY AMOUNT[ / PEOPLE]  NOTE`."""

import re
from datetime import date

from tally.money import parse_amount, to_cents
from tally.receipt import Receipt

LINE = re.compile(r"(\S+)\s+(\S+)\s+([\d.,]+)(?:\s*/\s*(\d+))?\s+(.+)")


class ParseError(ValueError):
    """A line is not a receipt; the message says which line and why."""


def parse_line(line: str) -> Receipt:
    """One receipt; its amount is the share when people are given. ValueError says what is wrong with the line."""
    match = LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f"not a receipt: {line.strip()!r}")
    day, category, amount, people, note = match.groups()
    if people is not None and int(people) == 0:
        raise ValueError("shared by nobody")
    return Receipt(parse_day(day), category, to_cents(parse_amount(amount) / int(people or 1)), note)


def parse_day(text: str) -> date:
    """`2026-03-09`, or `2026-3-9` as the phone app writes it; ValueError for anything else."""
    return date.fromisoformat("-".join(part.rjust(2, "0") for part in text.split("-")))


def parse(text: str) -> list[Receipt]:
    """All receipts of a file's text, without comments and empty lines; ParseError names a line that is none."""
    receipts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            try:
                receipts.append(parse_line(line))
            except ValueError as error:
                raise ParseError(f"line {number}: {error}") from error
    return receipts
