"""`onlooker forget`."""

import re
import sys
from dataclasses import replace
from typing import Any

import click

from onlooker.cli.options import json_option, tell

DAY_MS = 86_400_000
MS_OF = {"d": DAY_MS, "w": 7 * DAY_MS, "y": 365 * DAY_MS}


class Age(click.ParamType[int]):
    """`90d`, `12w` or `2y` as milliseconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The age."""
        found = re.fullmatch(r"(\d{1,5})([dwy])", str(value))
        if found is None:
            self.fail(f"{value!r} is no age: write 90d, 12w or 2y.", param, ctx)
        return int(found[1]) * MS_OF[found[2]]


@click.command(epilog='Example: onlooker forget --project tally --text "acme corp" --yes')
@click.option("--project", required=True, help="In which project, by name or id.")
@click.option("--id", "ids", multiple=True, help="A note, by its id; may be repeated.")
@click.option("--session", help="All of a session, by its id or the agent's own for it.")
@click.option("--text", help="All that contains this text, in whatever case.")
@click.option("--older-than", type=Age(), help="All that is older: 90d, 12w, 2y.")
@click.option("--yes", is_flag=True, help="Do it. Without it, only say what would go.")
@json_option
def forget(
    *,
    project: str,
    ids: tuple[str, ...],
    session: str | None,
    text: str | None,
    older_than: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove notes and the events that they were made from, for good.

    They leave the tables and the search index, on SQLite also the file and its log (docs/forget.md has what Postgres
    keeps), and importing the same again does not bring them back. Without --yes nothing is changed.
    """
    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.host import now_ms
    from onlooker.services.forget import Forgotten
    from onlooker.services.rendering import note_line
    from onlooker.storage.forgetting import Selection

    wanted = Selection(ids, session, text, None if older_than is None else now_ms() - older_than)
    if wanted.chosen_by != 1:
        raise click.UsageError("Give one of --id, --session, --text and --older-than.")

    def show(done: Forgotten) -> None:
        if sys.stderr.isatty():
            click.echo(f"\rforgot {done.observations} observations, {done.events} events", err=True, nl=False)

    async def work() -> None:
        async with open_local() as local:
            (place,) = await local.projects(project)
            session_id = None if session is None else await local.session_id([place], session)
            chosen = replace(wanted, session_id=session_id)
            if not yes:
                found = await local.app.forget.preview(scope_of(place), chosen)
                told = {"dryRun": True, "observations": found.observations, "events": found.events}
                lines = [f"Would forget {found.observations} observations and {found.events} events of {place.name}:"]
                lines += [f"  {note_line(note)}" for note in found.examples]
                if found.observations > len(found.examples):
                    lines.append(f"  … and {found.observations - len(found.examples)} more")
                tell(as_json, told, lambda: "\n".join([*lines, "Nothing was changed; add --yes to do it."]))
                return
            gone = await local.app.forget.forget(local.principal, scope_of(place), chosen, on_progress=show)
            told = {"dryRun": False, "observations": gone.observations, "events": gone.events, "jobs": gone.jobs}
            cancelled = f" {gone.jobs} jobs that waited are cancelled." if gone.jobs else ""
            tell(as_json, told, lambda: f"Forgot {gone.observations} observations and {gone.events} events.{cancelled}")

    run(work())
