"""`onlooker import claude-mem`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onlooker.cli.options import json_option, tell

if TYPE_CHECKING:
    from onlooker.services.claude_mem import FromClaudeMem


@click.command("claude-mem", epilog="Example: onlooker import claude-mem ~/.claude-mem/claude-mem.db")
@click.argument("path", metavar="PATH", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--project", help="The project to put everything in; without it, those that the database names.")
@json_option
def import_claude_mem(*, path: Path, project: str | None, as_json: bool) -> None:
    """Import what claude-mem remembers: sessions, prompts, observations and summaries, with their dates.

    Its SQLite database is only read, and may be in use. Of any version what is there is taken, and what is not is
    said. Cut off, or done again, it brings only what is new. No model is asked.
    """
    from onlooker.app import build_claude_mem_import
    from onlooker.cli.local import open_local, run

    async def work() -> "FromClaudeMem":
        async with open_local() as local:
            target = (await local.projects(project))[0] if project is not None else None
            with _progress(quiet=as_json) as on_rows:
                importing = build_claude_mem_import(local.app)
                return await importing.run(local.principal, path, project=target, on_rows=on_rows)

    done = run(work())
    told = {
        "sessions": done.sessions,
        "prompts": done.prompts,
        "observations": done.observations,
        "summaries": done.summaries,
        "known": done.known,
        "skipped": {reason: count for reason, count in done.skipped.most_common() if count},
    }
    tell(as_json, told, lambda: _say(done))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over all rows where a person watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, all_rows: bar.update(task, completed=done, total=all_rows)


def _say(done: "FromClaudeMem") -> str:
    new = f"{done.observations} observations, {done.summaries} summaries and {done.prompts} prompts"
    lines = [f"{new} of {done.sessions} sessions are new; {done.known} were known already."]
    lines += [f"Left out: {count} {reason}." for reason, count in done.skipped.most_common() if count]
    return "\n".join(lines)
