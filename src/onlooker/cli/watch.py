"""`onlooker watch`: what agents without hooks write down, as they write it."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onlooker.services.importing import Importing

LOOK_EVERY_S = 1.0
LOOKING_SHARE = 0.05
"""Of its time that it may look at folders: one with ten thousand files takes it an eighth of a second."""
LATELY_S = 600.0
"""A file that was written to so shortly before is of a session that goes on (as `services.importing` sees it)."""

State = tuple[int, int, bool]
"""Size and time of a file, and whether it was written to lately: once it was not, its last turn is over."""


@click.command(epilog="Example: onlooker watch ~/.claude/projects ~/.codex/sessions")
@click.argument("paths", metavar="PATH…", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--project", help="The project to put it in; without it, the one that each session's folder is.")
@click.option("--once", is_flag=True, help="Look once at what was written lately, and end.")
def watch(*, paths: tuple[Path, ...], project: str | None, once: bool) -> None:
    """Follow transcripts of Claude Code and Codex while they are written.

    It ends with Ctrl-C. For agents without hooks; beside hooks it changes nothing, since what is known is not stored
    again. PATH is a file or a folder; without one, the folders of ONLOOKER_TRANSCRIPT_FOLDERS. Sessions that were
    written to within the last ten minutes are read from their start; what was followed before is followed on.
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
    from onlooker.domain.errors import InvalidInput, Unavailable

    told: dict[Path, str] = {}
    async with open_local() as local:
        app = local.app
        importing: Importing = build_importing(app.database, app.ingest, app.accounts, app.places)
        project = (await local.projects(project_name))[0] if project_name is not None else None
        found = states_of(paths, time.time())
        seen = {
            path: state
            for path, state in found.items()
            if not state[2] and not await importing.is_behind(local.principal, path, state[0], project=project)
        }
        click.echo(f"Watching {', '.join(map(str, paths))} (Ctrl-C stops)")
        while True:
            began = time.monotonic()
            states = await asyncio.to_thread(states_of, paths, time.time())
            took_s = time.monotonic() - began
            for path in [path for path, state in states.items() if seen.get(path) != state]:
                try:
                    count = await importing.import_transcript(local.principal, path, project=project)
                except (InvalidInput, OSError, Unavailable) as error:
                    if isinstance(error, Unavailable):  # it is looked at again, changed or not
                        del states[path]
                    if told.get(path) != str(error):
                        told[path] = str(error)
                        click.echo(f"Left out {path}: {error}")
                else:
                    told.pop(path, None)
                    if count.stored:
                        click.echo(f"{count.stored} new events of {path.name}")
            seen = states
            if once:
                return
            await asyncio.sleep(pause_after(took_s))


def pause_after(look_took_s: float) -> float:
    """How long to wait after a look, in seconds."""
    return max(LOOK_EVERY_S, look_took_s / LOOKING_SHARE)


def states_of(paths: Sequence[Path], now: float) -> dict[Path, State]:
    """The state of each transcript at this time, in seconds since the epoch."""
    from onlooker.services.importing import find_transcripts

    states: dict[Path, State] = {}
    for path in find_transcripts(paths):
        with suppress(OSError):  # gone since it was found
            status = path.stat()
            states[path] = (status.st_size, status.st_mtime_ns, now - status.st_mtime < LATELY_S)
    return states
