"""What commands share: options, and how they tell people and programs what they found."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class TimeOf(click.ParamType[int]):
    """A day or a time, local where it names no zone, as epoch milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The time; a plain number is epoch milliseconds already."""
        if isinstance(value, int):
            return value
        if str(value).isdecimal():
            return int(value)
        try:
            return int(datetime.fromisoformat(str(value)).astimezone().timestamp() * 1000)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is no time: write 2026-03-31 or 2026-03-31T14:30.", param, ctx)


def tell(as_json: bool, told: Any, say: Callable[[], str]) -> None:  # noqa: FBT001 - it is the option's value
    """Print JSON where it was asked for, else the sentence."""
    click.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else say())


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal; else one line a row, its cells divided by tabs, for other programs."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def local_time(at: int | None) -> str:
    """Epoch milliseconds as a person reads them; empty for none."""
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
