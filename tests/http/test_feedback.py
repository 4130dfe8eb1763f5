"""What readers say of notes moves them a little; what is called wrong is hidden until somebody has looked."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_runner import Cli
from onlooker.app import open_app
from onlooker.domain.models import KeyScope, Scope
from onlooker.host import new_id
from onlooker.services.recall import NoteInput
from onlooker.settings import load_settings
from onlooker.storage import observations
from onlooker.storage.database import Connection
from served import Site


async def add(client: httpx.AsyncClient, site: Site, content: str) -> str:
    answer = await client.post("/v1/observations", json={"projectId": site.ours.project_id, "content": content})
    note: str = answer.json()["observation"]["id"]
    return note


async def judge(client: httpx.AsyncClient, note_id: str, verdict: str) -> dict[str, Any]:
    answer = await client.post(f"/v1/observations/{note_id}/feedback", json={"verdict": verdict})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def found(client: httpx.AsyncClient, site: Site, query: str = "flux") -> list[str]:
    answer = await client.post("/v1/search", json={"projectId": site.ours.project_id, "query": query})
    return [note["id"] for note in answer.json()["observations"]]


async def test_useful_and_outdated_move_a_note_among_its_equals(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        first, second, third = [await add(client, either_site, "the flux is damped") for _ in range(3)]
        assert await found(client, either_site) == [third, second, first]
        await judge(client, first, "useful")
        await judge(client, third, "outdated")
        assert await found(client, either_site) == [first, second, third]
        await judge(client, first, "clear")
        assert await found(client, either_site) == [second, first, third]


async def test_what_readers_say_never_outweighs_what_fits(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        fitting = await add(client, either_site, "flux flux capacitor")
        other = await add(client, either_site, "a flux among so many other words that it hardly is about that at all")
        keys = [await either_site.key(KeyScope.WRITE) for _ in range(20)]
        for key in keys:
            async with either_site.client(key) as reader:
                await judge(reader, other, "useful")
        assert await found(client, either_site, "flux capacitor") == [fitting, other]


async def test_a_wrong_note_is_hidden_until_it_is_cleared(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        note = await add(client, either_site, "the flux is wrong")
        told = await judge(client, note, "wrong")
        assert (told["id"], told["verdict"], told["hidden"]) == (note, "wrong", True)
        assert f"onlooker feedback {note} clear" in told["text"]
        assert await found(client, either_site) == []
        timeline = await client.post("/v1/timeline", json={"projectId": either_site.ours.project_id})
        assert timeline.json()["entries"] == []
        assert (await judge(client, note, "useful"))["hidden"]
        assert await found(client, either_site) == []
        assert not (await judge(client, note, "clear"))["hidden"]
        assert await found(client, either_site) == [note]
        await judge(client, note, "wrong")
        assert (await client.delete(f"/v1/observations/{note}")).status_code == 200


async def test_who_looks_finds_what_is_hidden_and_reads_that_it_is(either_site: Site) -> None:
    listed = f"/v1/projects/{either_site.ours.project_id}/hidden"
    async with either_site.client(either_site.ours.key) as client:
        notes = [await add(client, either_site, f"the flux {number}") for number in range(3)]
        assert (await client.get(listed)).json() == {"observations": []}
        for note in notes[:2]:
            await judge(client, note, "wrong")
        hidden = (await client.get(listed)).json()["observations"]
        assert [(note["id"], note["hidden"]) for note in hidden] == [(notes[1], True), (notes[0], True)]
        assert len((await client.get(listed, params={"limit": 1})).json()["observations"]) == 1
        assert (await client.get(f"/v1/observations/{notes[0]}")).json()["hidden"]
        whole = {"projectId": either_site.ours.project_id, "ids": [notes[0], notes[2]]}
        first, last = (await client.post("/v1/observations/get", json=whole)).json()["text"].split("---")
        assert "called wrong" in first
        assert "called wrong" not in last
    async with either_site.client(either_site.theirs.key) as stranger:
        assert (await stranger.get(listed)).status_code == 404


async def test_a_note_that_was_replaced_says_by_which(site: Site) -> None:
    scope = Scope(site.ours.team_id, site.ours.project_id)
    async with site.client(site.ours.key) as client:
        old, new = [await add(client, site, f"the flux {number}") for number in range(2)]
        await site.app.database.tx(lambda conn: observations.supersede(conn, scope, [old], by_id=new, now=1))
        whole = {"projectId": scope.project_id, "ids": [old, new]}
        answer = (await client.post("/v1/observations/get", json=whole)).json()
        assert [note.get("supersededBy") for note in answer["observations"]] == [new, None]
        assert f"replaced by {new}" in answer["text"]
        # What is hidden and brought back is as it was.
        await judge(client, old, "wrong")
        await judge(client, old, "clear")
        assert await found(client, site) == [new]


async def of_one_session(client: httpx.AsyncClient, site: Site, count: int) -> list[str]:
    """The ids of so many notes about the flux."""
    session = (await client.post("/v1/sessions/start", json={"projectId": site.ours.project_id})).json()
    body = {"projectId": site.ours.project_id, "serverSessionId": session["session"]["id"]}
    made = [await client.post("/v1/observations", json={**body, "content": f"the flux {n}"}) for n in range(count)]
    return [each.json()["memory"]["id"] for each in made]


async def test_what_a_wrong_note_replaced_holds_again(either_site: Site) -> None:
    scope = Scope(either_site.ours.team_id, either_site.ours.project_id)
    async with either_site.client(either_site.ours.key) as client:
        old, new = await of_one_session(client, either_site, 2)
        await either_site.app.database.tx(lambda conn: observations.supersede(conn, scope, [old], by_id=new, now=1))
        assert await found(client, either_site) == [new]
        await judge(client, new, "wrong")
        assert await found(client, either_site) == [old]
        told = await client.get("/v1/context/session", params={"projectId": scope.project_id})
        assert told.json()["observationIds"] == [old]
        await judge(client, new, "clear")
        assert set(await found(client, either_site)) == {old, new}


@pytest.mark.parametrize("way", ["deleted", "forgotten"])
async def test_what_a_note_replaced_that_is_gone_holds_again(either_site: Site, way: str) -> None:
    scope = Scope(either_site.ours.team_id, either_site.ours.project_id)
    async with either_site.client(either_site.ours.key) as client:
        notes = await of_one_session(client, either_site, 3)

        def supersede(conn: Connection) -> None:
            for old, new in itertools.pairwise(notes):
                observations.supersede(conn, scope, [old], by_id=new, now=1)

        await either_site.app.database.tx(supersede)
        assert await found(client, either_site) == [notes[2]]
        if way == "deleted":
            assert (await client.delete(f"/v1/observations/{notes[2]}")).status_code == 200
        else:
            body = {"projectId": scope.project_id, "ids": [notes[2]], "dryRun": False}
            assert (await client.post("/v1/forget", json=body)).status_code == 200
        assert await found(client, either_site) == [notes[1]]


async def test_only_who_may_write_may_judge_and_only_their_own(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        note = await add(client, either_site, "flux")
        path, body = f"/v1/observations/{note}/feedback", {"verdict": "wrong"}
        async with either_site.client(await either_site.key(KeyScope.READ)) as reader:
            assert (await reader.post(path, json=body)).status_code == 403
        async with either_site.client(either_site.theirs.key) as stranger:
            assert (await stranger.post(path, json=body)).status_code == 404
        assert (await client.post(f"/v1/observations/{new_id()}/feedback", json=body)).status_code == 404
        assert (await client.post(path, json={"verdict": "nice"})).status_code == 400
        assert await found(client, either_site) == [note]


@pytest.mark.parametrize("arguments", [("x", "nice"), ("x", "wrong", "useful")])
def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert Cli(tmp_path / "home").run("feedback", *arguments).code == 2


@pytest.mark.parametrize("arguments", [(), ("wrong",), ("clear",)])
def test_the_command_says_that_there_is_no_such_note(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = Cli(tmp_path / "home").run("feedback", new_id(), *arguments)
    assert (refused.code, refused.err) == (1, "onlooker: no such observation\n")


def test_a_person_looks_at_what_is_hidden_and_brings_it_back(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    assert cli.run("feedback", "--json").json() == {"hidden": []}
    note = asyncio.run(a_note(cli.home, "the flux is damped\ntwice"))

    assert f"onlooker feedback {note} clear" in cli.run("feedback", note, "wrong").out
    assert cli.run("search", "flux").out.startswith("Nothing found")
    assert [hidden["id"] for hidden in cli.run("feedback", "--json").json()["hidden"]] == [note]
    shown = cli.run("feedback", note).out
    assert "twice" in shown
    assert "called wrong" in shown
    assert cli.run("feedback", note, "clear").code == 0
    assert note in cli.run("search", "flux").out


async def a_note(home: Path, text: str) -> str:
    async with open_app(load_settings(home=home)) as app:
        local = (await app.accounts.ensure_local(home)).principal
        project, _ = await app.accounts.create_project(local, "tally")
        return (await app.recall.add(local, Scope(project.team_id, project.id), NoteInput(text))).id
