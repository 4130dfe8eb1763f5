"""`onlooker search`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from onlooker.cli.options import TimeOf, json_option, local_time, show_table, tell
from onlooker.services.rendering import clip

if TYPE_CHECKING:
    from onlooker.domain.models import Hit

MOST, MOST_SKIPPED = 100, 200
LONGEST_NARRATIVE = 300


@click.command(epilog='Example: onlooker search --kind bugfix --file money.py "rounding of half cents"')
@click.argument("query", nargs=-1, required=True)
@click.option(
    "--project", "projects", multiple=True, help="Only in this project, by name or id; may be repeated. Else in all."
)
@click.option("--limit", type=click.IntRange(1, MOST), default=10, show_default=True, help="How many to show.")
@click.option("--offset", type=click.IntRange(0, MOST_SKIPPED), default=0, help="How many of the best to leave out.")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind (bugfix, decision, …); may be repeated.")
@click.option("--file", help="Only about this file, or files whose path ends so.")
@click.option(
    "--concept", "concepts", multiple=True, help="Only with this concept (gotcha, pattern, …); may be repeated."
)
@click.option("--session", help="Only of this session, by its id or the agent's own for it.")
@click.option("--platform", help="Only from this agent (claude-code, cursor, …).")
@click.option("--since", type=TimeOf(), help="Only what happened at or after this day or time (2026-03-31).")
@click.option("--until", type=TimeOf(), help="Only what happened at or before this day or time.")
@click.option("--superseded", is_flag=True, help="With those that a later one replaced, after all others.")
@click.option("--newest", is_flag=True, help="The latest first, of the hundred that fit best.")
@json_option
def search(
    *,
    query: tuple[str, ...],
    projects: tuple[str, ...],
    limit: int,
    offset: int,
    kinds: tuple[str, ...],
    file: str | None,
    concepts: tuple[str, ...],
    session: str | None,
    platform: str | None,
    since: int | None,
    until: int | None,
    superseded: bool,
    newest: bool,
    as_json: bool,
) -> None:
    """Find observations; the best come first. Works with the server up or down.

    A "quoted phrase" must be in what is found, a -word must not; write -- before a query that begins with a dash.
    """
    import msgspec

    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.domain.models import ObservationKind, SearchFilter, SearchOrder
    from onlooker.http.schemas import ObservationsView, ObservationView

    unknown = set(kinds) - set(ObservationKind)
    if unknown:
        raise click.BadParameter(
            f"{', '.join(sorted(unknown))}: not one of {', '.join(ObservationKind)}. A mode's own type is a --concept."
        )
    order = SearchOrder.TIME if newest else SearchOrder.RELEVANCE

    async def show() -> None:
        async with open_local() as local:
            places = [place for name in projects or (None,) for place in await local.projects(name)]
            wanted = SearchFilter(
                kinds=frozenset(map(ObservationKind, kinds)),
                platform_source=platform,
                file=file,
                since=since,
                until=until,
                session_id=None if session is None else await local.session_id(places, session),
                concepts=frozenset(concepts),
                superseded=superseded,
            )
            scopes = [scope_of(place) for place in places]
            best = []
            if scopes:
                best = await local.app.recall.search(
                    scopes[0], " ".join(query), wanted, limit=limit, offset=offset, order=order, also=scopes[1:]
                )
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
    """Hits as a table for people. On a terminal, where a column of ids would take half of it, they stand below."""
    is_terminal = sys.stdout.isatty()
    show_table(
        ("when", "project", "kind", "what", "files", *(() if is_terminal else ("id",))),
        [
            (
                local_time(hit.observation.occurred_at),
                project_names.get(hit.observation.project_id, ""),
                hit.observation.type_shown,
                _what(hit),
                ", ".join(_files(hit)),
                *(() if is_terminal else (hit.observation.id,)),
            )
            for hit in hits
        ],
    )


def _what(hit: "Hit") -> str:
    """The title, and on a terminal what stands below it."""
    note = hit.observation
    if not sys.stdout.isatty():
        return note.title
    told = clip(note.narrative, LONGEST_NARRATIVE)
    return "\n".join(line for line in (note.title, told, note.id) if line)


def _files(hit: "Hit") -> list[str]:
    return list(dict.fromkeys((*hit.observation.files_modified, *hit.observation.files_read)))
