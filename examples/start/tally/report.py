"""The report as text."""

from tally.totals import by_category, grand_total

WIDTH = 24


def render(rows: list[tuple]) -> str:
    """A line for each category, a rule, and the total."""
    lines = [f"{category:<14}{total:>10.2f}" for category, total in by_category(rows).items()]
    return "\n".join([*lines, "-" * WIDTH, f"{'total':<14}{grand_total(rows):>10.2f}"])
