"""`onlooker watch`: what agents without hooks write down, as they write it."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onlooker.services.importing import Importing

LOOK_EVERY_S = 1.0
LATELY_S = 600.0
"""A file that was written to so shortly before is of a session that goes on."""


@click.command(epilog="Example: onlooker watch ~/.claude/projects ~/.codex/sessions")
@click.argument("paths", metavar="PATH…", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--project", help="The project to put it in; without it, the one that each session's folder is.")
@click.option("--once", is_flag=True, help="Look once at what was written lately, and end.")
def watch(*, paths: tuple[Path, ...], project: str | None, once: bool) -> None:
    """Follow transcripts of Claude Code and Codex while they are written.

    It ends with Ctrl-C. For agents without hooks; beside hooks it changes nothing, since what is known is not stored
    again. PATH is a file or a folder; without one, the folders of ONLOOKER_TRANSCRIPT_FOLDERS. Sessions that were
    written to within the last ten minutes are read from their start.
    """
    from onlooker.cli.local import run
    from onlooker.domain.errors import Misconfigured
    from onlooker.settings import load_settings

    named = [Path(each.strip()).expanduser() for each in load_settings().transcript_folders.split(",") if each.strip()]
    folders = list(paths) or [path for path in named if path.exists()]
    if not folders:
        raise Misconfigured(["there is nothing to watch: name a folder, such as ~/.claude/projects"])
    run(_watch(folders, project, once=once))


async def _watch(paths: Sequence[Path], project_name: str | None, *, once: bool) -> None:
    from onlooker.app import build_importing
    from onlooker.cli.local import open_local
    from onlooker.domain.errors import InvalidInput

    seen: dict[Path, tuple[int, int]] = _states(paths, until=time.time() - LATELY_S)
    async with open_local() as local:
        app = local.app
        importing: Importing = build_importing(app.database, app.ingest, app.accounts, app.places)
        project = (await local.projects(project_name))[0] if project_name is not None else None
        click.echo(f"Watching {', '.join(map(str, paths))} (Ctrl-C stops)")
        while True:
            states = await asyncio.to_thread(_states, paths)
            for path in [path for path, state in states.items() if seen.get(path) != state]:
                try:
                    count = await importing.import_transcript(local.principal, path, project=project)
                except (InvalidInput, OSError) as error:
                    click.echo(f"Left out {path}: {error}")
                else:
                    if count.stored:
                        click.echo(f"{count.stored} new events of {path.name}")
            seen = states
            if once:
                return
            await asyncio.sleep(LOOK_EVERY_S)


def _states(paths: Sequence[Path], *, until: float | None = None) -> dict[Path, tuple[int, int]]:
    """Size and time of each transcript; with `until`, of those only that were not written to since."""
    from onlooker.services.importing import find_transcripts

    found: Mapping[Path, os.stat_result] = {path: path.stat() for path in find_transcripts(paths) if path.exists()}
    return {
        path: (status.st_size, status.st_mtime_ns)
        for path, status in found.items()
        if until is None or status.st_mtime < until
    }
