"""`onlooker export` and `onlooker import archive`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from onlooker.cli.options import json_option, tell

if TYPE_CHECKING:
    from onlooker.services.archive import Restored

PRIVATE = 0o600
TELL_EVERY = 10_000


@click.command(epilog="Example: onlooker export --project website --output website.jsonl")
@click.option("--project", help="Only this project; without it, all of the team.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write, for its owner's eyes only; without it, standard output.",
)
def export(*, project: str | None, output: Path | None) -> None:
    """Write everything that projects have as JSON lines: sessions, events, jobs, observations and what belongs to them.

    `onlooker import archive` brings it into another home. Keys are not in it. What is stored meanwhile may be missing.
    """
    from onlooker.cli.local import run

    if output is None:
        run(_export(project, sys.stdout))
        return
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        count = run(_export(project, file))
    click.echo(f"{output}: {count} lines.", err=True)


async def _export(name: str | None, file: TextIO) -> int:
    from onlooker.cli.local import open_local
    from onlooker.services import archive

    count = 0
    async with open_local() as local:
        places = await local.projects(name)
        team = await local.app.accounts.team_of(local.principal)
        async for line in archive.lines(local.app.database, team, places):
            file.write(f"{line}\n")
            count += 1
            if count % TELL_EVERY == 0 and sys.stderr.isatty():
                click.echo(f"\r{count} lines", err=True, nl=False)
    return count


@click.command("archive", epilog="Example: onlooker import archive website.jsonl")
@click.argument("path", metavar="PATH", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def import_archive(*, path: Path, as_json: bool) -> None:
    """Bring in what `onlooker export` wrote: every row as it was, and only what is not there yet.

    A home that has not been used takes over the team and the projects with their ids. Elsewhere projects of the same
    name are joined; then an event that an agent sends again may be stored a second time.
    """
    from onlooker.cli.local import run

    done = run(_import(path))
    told = {"new": done.new, "known": done.known, "moved": done.moved}
    moved = " It came into projects that were there before." if done.moved else ""
    tell(as_json, told, lambda: f"{done.new} rows are new, {done.known} were there already.{moved}")


async def _import(path: Path) -> "Restored":
    from onlooker.app import open_app
    from onlooker.services.archive import Restored, Restoring
    from onlooker.settings import LogLevel, load_settings
    from onlooker.telemetry import set_up_logging

    set_up_logging(LogLevel.ERROR)
    settings = load_settings()
    done = Restored()
    with path.open(encoding="utf-8", errors="replace") as file:
        async with open_app(settings) as app:
            restoring = Restoring(app.database, file)
            await restoring.begin()
            await app.accounts.ensure_local(settings.home)
            async for so_far in restoring.run():
                done = so_far
                if sys.stderr.isatty():
                    click.echo(f"\r{done.new + done.known} rows", err=True, nl=False)
    return done
