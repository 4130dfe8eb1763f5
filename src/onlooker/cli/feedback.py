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
    takes back all that was said and shows it again. With an ID alone: the note, whole. Without arguments: the notes
    that were called wrong and wait for a person to look.
    """
    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.services.rendering import judged_text, notes_text
    from onlooker.storage.verdicts import Verdict

    async def read(note_id: str) -> None:
        async with open_local() as local:
            scope = await local.app.accounts.scope_of(local.principal, "observation", note_id)
            note = await local.app.recall.get(scope, note_id)
        told = {"id": note.id, "title": note.title, "content": note.content, "hidden": note.hidden}
        tell(as_json, told, lambda: f"{notes_text([note])}\n\n{judged_text(note)}")

    async def judge(note_id: str, said: str) -> None:
        async with open_local() as local:
            scope = await local.app.accounts.scope_of(local.principal, "observation", note_id)
            meant = None if said == CLEAR else Verdict(said)
            note = await local.app.recall.judge(local.principal, scope, note_id, meant)
        told = {"id": note.id, "verdict": said, "hidden": note.hidden}
        noted = "What was said is taken back" if said == CLEAR else f"Noted as {said}"
        tell(as_json, told, lambda: f"{noted}: {note.title}\n{judged_text(note)}")

    async def list_hidden() -> None:
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

    if observation_id is None:
        run(list_hidden())
    elif verdict is None:
        run(read(observation_id))
    else:
        run(judge(observation_id, verdict))
