"""`onlooker reindex`."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from onlooker.cli.options import json_option, local_time, show_table, tell

if TYPE_CHECKING:
    from onlooker.cli.local import LocalApp
    from onlooker.domain.models import Project
    from onlooker.storage.reindexing import Progress

LOOK_EVERY_S = 1.0
ALL = 100
"""Per cent."""


@click.command(epilog="Example: onlooker reindex --project shop")
@click.option("--project", help="Only this project; without it, all.")
@click.option("--status", is_flag=True, help="Begin nothing, only say how far it is.")
@click.option("--wait", is_flag=True, help="Return when all is done, showing how far it is.")
@json_option
def reindex(*, project: str | None, status: bool, wait: bool, as_json: bool) -> None:
    """Make the search data of stored observations anew.

    Needed after an update that reads text in another way, and when ONLOOKER_EMBEDDER was set or changed. The server or
    a worker does it beside its other work, a few observations at a time, and search goes on. What is done stays done
    when it is stopped.
    """
    from onlooker.cli.local import open_local, run, scope_of

    async def show() -> None:
        async with open_local() as local:
            places = await local.projects(project)
            begun = 0
            if not status:
                begun = await local.app.indexing.reindex(local.principal, [scope_of(place) for place in places])
            found = await _progress(local, places)
            while wait and any(each.finished_at is None for _, each in found):
                _say_how_far(found)
                await asyncio.sleep(LOOK_EVERY_S)
                found = await _progress(local, places)
        tell(as_json, {"begun": begun, "projects": [_json(*each) for each in found]}, lambda: _said(begun, found))
        if not as_json and found:
            _show(found)

    run(show())


async def _progress(local: "LocalApp", places: "list[Project]") -> "list[tuple[Project, Progress]]":
    """The projects that were ever reindexed, with how far the last time is."""
    from onlooker.cli.local import scope_of

    found = [(place, await local.app.indexing.progress(scope_of(place))) for place in places]
    return [(place, progress) for place, progress in found if progress is not None]


def _said(begun: int, found: "list[tuple[Project, Progress]]") -> str:
    if begun:
        return f"Begun for {begun} of {len(found)} projects. `onlooker reindex --status` says how far it is."
    if any(progress.finished_at is None for _, progress in found):
        return "It goes on; a server or a worker must run."
    return "Nothing is being reindexed."


def _say_how_far(found: "list[tuple[Project, Progress]]") -> None:
    done, total = sum(each.done for _, each in found), sum(each.total for _, each in found)
    click.echo(f"{done} of {total} observations", err=True)


def _show(found: "list[tuple[Project, Progress]]") -> None:
    show_table(
        ("project", "done", "of", "%", "changed", "begun", "finished"),
        [
            (
                place.name,
                str(each.done),
                str(each.total),
                str(ALL * each.done // each.total if each.total else ALL),
                str(each.changed),
                local_time(each.started_at),
                local_time(each.finished_at),
            )
            for place, each in found
        ],
    )


def _json(place: "Project", progress: "Progress") -> dict[str, Any]:
    return {
        "project": place.name,
        "projectId": place.id,
        "model": progress.model or None,
        "done": progress.done,
        "total": progress.total,
        "changed": progress.changed,
        "startedAtEpoch": progress.started_at,
        "updatedAtEpoch": progress.updated_at,
        "finishedAtEpoch": progress.finished_at,
    }
