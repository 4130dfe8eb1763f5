"""The report, as text and as JSON."""

import json

from tally.receipt import Receipt
from tally.totals import by_category, grand_total

WIDTH = 24


def render(receipts: list[Receipt]) -> str:
    """A line for each category, a rule, and the total."""
    lines = [f"{category:<14}{total:>10.2f}" for category, total in by_category(receipts).items()]
    return "\n".join([*lines, "-" * WIDTH, f"{'total':<14}{grand_total(receipts):>10.2f}"])


def render_json(receipts: list[Receipt]) -> str:
    """The same as JSON. Amounts are strings, so that no reader makes floats of them."""
    categories = {category: f"{total:.2f}" for category, total in by_category(receipts).items()}
    return json.dumps({"categories": categories, "total": f"{grand_total(receipts):.2f}"}, indent=2)
