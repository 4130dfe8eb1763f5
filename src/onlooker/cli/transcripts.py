"""`onlooker import transcript`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onlooker.cli.archive import import_archive
from onlooker.cli.claude_mem import import_claude_mem
from onlooker.cli.options import json_option, tell

if TYPE_CHECKING:
    from onlooker.services.importing import Imported

WORKER_SEEN_MS = 30_000
MOST_REASONS = 8


@click.group("import", epilog="Example: onlooker import transcript ~/.claude/projects")
def import_group() -> None:
    """Bring in what agents wrote down before."""


import_group.add_command(import_archive)
import_group.add_command(import_claude_mem)


@import_group.command("transcript", epilog="Example: onlooker import transcript ~/.claude/projects --project website")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--project", help="The project to put it in; without it, one named as each session's folder.")
@click.option("--store-only", is_flag=True, help="Store the events and make no observations of them.")
@json_option
def import_transcript(*, paths: tuple[Path, ...], project: str | None, store_only: bool, as_json: bool) -> None:
    """Import Claude Code transcripts: files, or folders with all that is in them.

    Cut off, it goes on from there the next time. What is known already, from a hook or an earlier import, changes
    nothing.
    """
    from onlooker.cli.local import run

    count, refused, has_worker = run(_import(paths, project, store_only=store_only, quiet=as_json))
    told = {
        "files": count.files,
        "bytesRead": count.bytes_read,
        "stored": count.stored,
        "known": count.known,
        "rejected": count.rejected,
        "excluded": count.excluded,
        "skipped": dict(count.skipped.most_common()),
        "refused": [{"path": str(path), "reason": reason} for path, reason in refused],
    }
    tell(as_json, told, lambda: _say(count, refused, waits=not has_worker and not store_only))
    if refused and not count.files:
        click.get_current_context().exit(1)


async def _import(
    paths: Sequence[Path], project_name: str | None, *, store_only: bool, quiet: bool
) -> tuple["Imported", list[tuple[Path, str]], bool]:
    """What was imported, the files that were refused with the reason, and whether a worker is there."""
    from onlooker.app import build_importing
    from onlooker.cli.local import open_local
    from onlooker.domain.errors import InvalidInput
    from onlooker.services.importing import Imported, find_transcripts
    from onlooker.storage import workers

    files = find_transcripts(paths)
    total = Imported()
    refused: list[tuple[Path, str]] = []
    async with open_local() as local:
        app = local.app
        importing = build_importing(app.database, app.ingest, app.accounts, app.places)
        project = (await local.projects(project_name))[0] if project_name is not None else None
        with _progress(files, quiet=quiet) as on_read:
            for file in files:
                try:
                    total.add(
                        await importing.import_transcript(
                            local.principal, file, project=project, generate=not store_only, on_read=on_read
                        )
                    )
                except InvalidInput as error:
                    refused.append((file, str(error)))
                except OSError as error:
                    refused.append((file, error.strerror or str(error)))
        seen = await app.database.read(lambda conn: workers.seen_within(conn, WORKER_SEEN_MS))
    return total, refused, bool(seen)


@contextmanager
def _progress(files: Sequence[Path], *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar over all bytes where a person watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(file.stat().st_size for file in files))
        yield lambda read: bar.advance(task, read)


def _say(count: "Imported", refused: Sequence[tuple[Path, str]], *, waits: bool) -> str:
    lines = [f"{count.files} files: {count.stored} new events, {count.known} known already."]
    if count.skipped:
        reasons = ", ".join(f"{times} {reason}" for reason, times in count.skipped.most_common(MOST_REASONS))
        lines.append(f"{count.skipped.total()} parts are no events: {reasons}.")
    if count.rejected:
        lines.append(f"{count.rejected} parts were no JSON and were left out.")
    if count.excluded:
        lines.append(f"{count.excluded} events are of folders that are excluded.")
    lines += [f"Left out {path}: {reason}" for path, reason in refused]
    if waits and count.stored:
        lines.append("No worker is running to observe them: start one with `onlooker server start`.")
    return "\n".join(lines)
