"""Reads receipts, one a line: `DAY CATEGORY AMOUNT[ / PEOPLE]  NOTE`."""

import re

LINE = re.compile(r"(\S+)\s+(\S+)\s+([\d.,]+)(?:\s*/\s*(\d+))?\s+(.+)")


def parse_line(line: str) -> tuple:
    """One receipt as (day, category, amount, note); the amount is the share when people are given."""
    match = LINE.fullmatch(line.strip())
    day, category, amount, people, note = match.groups()
    return day, category, float(amount) / int(people or 1), note


def parse(text: str) -> list[tuple]:
    """All receipts of a file's text, without comments and empty lines."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return list(map(parse_line, lines))
