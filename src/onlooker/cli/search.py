"""`onlooker search`."""

import sys
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

import click

from onlooker.cli.options import TimeOf, json_option, local_time, show_table, tell

if TYPE_CHECKING:
    from onlooker.domain.models import Hit

MOST = 100
LONGEST_NARRATIVE = 300


@click.command(epilog='Example: onlooker search --kind bugfix --file money.py "rounding of half cents"')
@click.argument("query", nargs=-1, required=True)
@click.option("--project", help="Only in this project; without it, in all.")
@click.option("--limit", type=click.IntRange(1, MOST), default=10, show_default=True, help="How many to show.")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind (bugfix, decision, …); may be repeated.")
@click.option("--file", help="Only about this file.")
@click.option("--since", type=TimeOf(), help="Only what happened at or after this day or time (2026-03-31).")
@click.option("--until", type=TimeOf(), help="Only what happened at or before this day or time.")
@json_option
def search(
    *,
    query: tuple[str, ...],
    project: str | None,
    limit: int,
    kinds: tuple[str, ...],
    file: str | None,
    since: int | None,
    until: int | None,
    as_json: bool,
) -> None:
    """Find observations; the best come first. Works with the server up or down."""
    import msgspec

    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.domain.models import ObservationKind, SearchFilter
    from onlooker.http.schemas import ObservationsView, ObservationView

    unknown = set(kinds) - set(ObservationKind)
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: not one of {', '.join(ObservationKind)}.")
    wanted = SearchFilter(frozenset(map(ObservationKind, kinds)), None, file, since, until)

    async def show() -> None:
        async with open_local() as local:
            places = await local.projects(project)
            hits = [
                hit
                for place in places
                for hit in await local.app.recall.search(scope_of(place), " ".join(query), wanted, limit=limit)
            ]
            best = sorted(hits, key=lambda hit: -hit.score)[:limit]
            names = {place.id: place.name for place in places}
        if as_json:
            views = [ObservationView.of(hit.observation, score=hit.score) for hit in best]
            tell(as_json, msgspec.to_builtins(ObservationsView(views)), str)
        elif best:
            show_hits(best, names)
        else:
            click.echo("Nothing found. Other words may help; `onlooker jobs list` shows what is still to be observed.")

    run(show())


def show_hits(hits: Sequence["Hit"], project_names: dict[str, str]) -> None:
    """Hits as a table for people."""
    show_table(
        ("when", "project", "kind", "what", "files"),
        [
            (
                local_time(hit.observation.occurred_at),
                project_names.get(hit.observation.project_id, ""),
                str(hit.observation.kind),
                _what(hit),
                ", ".join(_files(hit)),
            )
            for hit in hits
        ],
    )


def _what(hit: "Hit") -> str:
    """The title, and on a terminal what stands below it."""
    note = hit.observation
    if not sys.stdout.isatty() or not note.narrative:
        return note.title
    return f"{note.title}\n{shorten(note.narrative, LONGEST_NARRATIVE, placeholder=' …')}"


def _files(hit: "Hit") -> list[str]:
    return list(dict.fromkeys((*hit.observation.files_modified, *hit.observation.files_read)))
