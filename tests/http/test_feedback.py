"""What readers say of notes moves them a little; what is called wrong is hidden until somebody has looked."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_runner import Cli
from onlooker.domain.models import KeyScope
from onlooker.host import new_id
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
        assert await judge(client, note, "wrong") == {"id": note, "verdict": "wrong", "hidden": True}
        assert await found(client, either_site) == []
        timeline = await client.post("/v1/timeline", json={"projectId": either_site.ours.project_id})
        assert timeline.json()["entries"] == []
        assert (await judge(client, note, "useful"))["hidden"]
        assert await found(client, either_site) == []
        assert not (await judge(client, note, "clear"))["hidden"]
        assert await found(client, either_site) == [note]
        await judge(client, note, "wrong")
        assert (await client.delete(f"/v1/observations/{note}")).status_code == 200


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


@pytest.mark.parametrize("arguments", [("x",), ("x", "nice")])
def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert Cli(tmp_path / "home").run("feedback", *arguments).code == 2


def test_the_command_lists_what_is_hidden(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    assert cli.run("feedback", "--json").json() == {"hidden": []}
    assert cli.run("feedback", new_id(), "wrong").code == 1
