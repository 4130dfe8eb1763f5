"""`onlooker context`."""

import click
import msgspec

from onlooker.cli.options import json_option, tell
from onlooker.services.session_context import DEFAULT_BUDGET, LEAST_BUDGET, MOST_BUDGET


@click.command(epilog="Example: onlooker context --project website --file src/money.py")
@click.option("--project", help="Which project, by name or id; without it, that of the folder you are in.")
@click.option(
    "--budget",
    type=click.IntRange(LEAST_BUDGET, MOST_BUDGET),
    default=DEFAULT_BUDGET,
    show_default=True,
    help="How many tokens of a model it may take.",
)
@click.option("--query", default="", help="What the work will be about: only the notes that fit it.")
@click.option("--file", default="", help="A file about to be read or changed: only the notes about it.")
@json_option
def context(*, project: str | None, budget: int, query: str, file: str, as_json: bool) -> None:
    """Show what a new session in a project is told: next steps, what was done and decided, work by file."""
    from onlooker.cli.local import open_local, run, scope_of

    async def show() -> None:
        async with open_local() as local:
            scope = await local.project_here() if project is None else None
            if scope is None:
                places = await local.projects(project)
                if len(places) > 1:
                    names = ", ".join(place.name for place in places)
                    raise click.UsageError(f"This folder has no project: say --project with one of {names}.")
                scope = scope_of(places[0])
            made = await local.app.injecting.context(scope, query=query, file=file, budget=budget)
        tell(as_json, msgspec.to_builtins(made), lambda: made.markdown or "There is nothing to tell yet.")

    run(show())
