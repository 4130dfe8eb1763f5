"""Sums over receipts."""


def by_category(rows: list[tuple]) -> dict[str, float]:
    """Total of each category, in alphabetical order."""
    totals = {}
    for row in rows:
        totals[row[1]] = totals.get(row[1], 0) + row[2]
    return {category: round(totals[category], 2) for category in sorted(totals)}


def grand_total(rows: list[tuple]) -> float:
    """Total of all receipts."""
    return round(sum(row[2] for row in rows), 2)
