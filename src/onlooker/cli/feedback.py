"""`onlooker feedback`."""

import click

from onlooker.cli.options import json_option, local_time, show_table, tell

MOST = 200
CLEAR = "clear"


@click.command(epilog="Example: onlooker feedback 0199c1d2-5a1e-7c3b-9f00-0a1b2c3d4e5f outdated")
@click.argument("observation_id", metavar="[ID]", required=False)
@click.argument(
    "verdict", metavar="[VERDICT]", required=False, type=click.Choice(("useful", "outdated", "wrong", CLEAR))
)
@click.option("--project", help="Which project's hidden notes to list; without it, those of all.")
@json_option
def feedback(*, observation_id: str | None, verdict: str | None, project: str | None, as_json: bool) -> None:
    """Say what a note is worth, or list the notes that are hidden.

    VERDICT is useful or outdated, which move the note a little in searches, wrong, which hides it, or clear, which
    takes back what was said and shows it again. Without arguments: the notes that were called wrong, to be looked at.
    """
    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.storage.verdicts import Verdict

    if observation_id is not None and verdict is None:
        raise click.UsageError("Say useful, outdated, wrong or clear.")

    async def judge(note_id: str, said: str) -> None:
        async with open_local() as local:
            scope = await local.app.accounts.scope_of(local.principal, "observation", note_id)
            meant = None if said == CLEAR else Verdict(said)
            note = await local.app.recall.judge(local.principal, scope, note_id, meant)
        told = {"id": note.id, "verdict": said, "hidden": note.hidden}
        state = "It is hidden until it is cleared." if note.hidden else "It is found as others are."
        tell(as_json, told, lambda: f"Noted: {note.title} is {said}. {state}")

    async def show() -> None:
        async with open_local() as local:
            places = await local.projects(project)
            notes = [note for place in places for note in await local.app.recall.hidden(scope_of(place), limit=MOST)]
        if as_json:
            tell(as_json, {"hidden": [{"id": note.id, "title": note.title} for note in notes]}, str)
        elif notes:
            show_table(
                ("id", "when", "kind", "what"),
                [(note.id, local_time(note.occurred_at), note.type_shown, note.title) for note in notes],
            )
        else:
            click.echo("No note is hidden.")

    run(show() if observation_id is None or verdict is None else judge(observation_id, verdict))
