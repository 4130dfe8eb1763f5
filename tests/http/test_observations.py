"""Notes: written, read, found, deleted; under both their names."""

import json
from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.host import new_id
from served import NOW, Site

FIELDS = {
    "id", "projectId", "teamId", "serverSessionId", "kind", "content", "metadata", "generationKey", "createdByJobId",
    "createdAtEpoch", "updatedAtEpoch",
}  # fmt: skip
METADATA = {
    "title", "subtitle", "narrative", "facts", "concepts", "files_read", "files_modified", "provider", "model",
}  # fmt: skip
NAMES = ("observations", "memories")


async def add(client: httpx.AsyncClient, site: Site, **given: Any) -> dict[str, Any]:
    answer = await client.post("/v1/observations", json={"projectId": site.ours.project_id, **given})
    assert answer.status_code == 201, answer.text
    note: dict[str, Any] = answer.json()["observation"]
    return note


@pytest.mark.parametrize("name", NAMES)
async def test_a_note_is_stored_and_answered_twice(either_site: Site, name: str) -> None:
    body = {
        "projectId": either_site.ours.project_id,
        "content": "The parser keeps comments.",
        "kind": "decision",
        "title": "Comments stay",
        "occurredAtEpoch": NOW,
        "metadata": {"author": "Kim"},
    }
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post(f"/v1/{name}", json=body)
        assert answer.status_code == 201
        note = answer.json()["observation"]
        assert answer.json()["memory"] == note
        assert set(note) >= FIELDS
        assert set(note["metadata"]) >= METADATA
        assert (note["kind"], note["metadata"]["title"]) == ("decision", "Comments stay")
        assert note["content"] == "Comments stay\n\nThe parser keeps comments."
        assert note["metadata"]["author"] == "Kim"
        assert (await client.get(f"/v1/{name}/{note['id']}")).json() == note
        assert (await client.get("/v1/jobs")).json()["total"] == 0


async def test_a_note_may_be_a_narrative_and_is_manual(site: Site, client: httpx.AsyncClient) -> None:
    note = await add(client, site, narrative="Only this.")
    assert (note["kind"], note["content"]) == ("manual", "Only this.")


@pytest.mark.parametrize("given", [{}, {"content": ""}, {"content": " \n"}, {"content": None, "narrative": ""}])
async def test_a_note_without_text_is_refused(site: Site, client: httpx.AsyncClient, given: dict[str, Any]) -> None:
    answer = await client.post("/v1/observations", json={"projectId": site.ours.project_id, **given})
    assert answer.status_code == 400
    assert "content" in answer.json()["issues"][0]


async def test_a_note_of_odd_characters_is_made_storable(either_site: Site) -> None:
    body = {
        "projectId": either_site.ours.project_id,
        "content": "a\x00b\ud800c",
        "title": "\x00t",
        "metadata": {"\x00": "\ud800"},
    }
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post("/v1/observations", content=json.dumps(body))
        assert answer.status_code == 201
        assert "a\ufffdb\ufffdc" in answer.json()["observation"]["content"]
        odd = {**body, "content": "x", "serverSessionId": "\x00"}
        assert (await client.post("/v1/observations", content=json.dumps(odd))).status_code == 404


async def test_a_private_part_of_a_note_never_comes_back(site: Site, client: httpx.AsyncClient) -> None:
    note = await add(
        client, site, content="a <private>MARK-SECRET</private> b", title="<private>MARK-SECRET</private>t"
    )
    assert "MARK-SECRET" not in str(note)


@pytest.mark.parametrize("name", NAMES)
async def test_a_deleted_note_is_gone(either_site: Site, name: str) -> None:
    async with either_site.client(either_site.ours.key) as client:
        note = await add(client, either_site, content="flux capacitor")
        answer = await client.delete(f"/v1/{name}/{note['id']}")
        assert answer.status_code == 200
        assert answer.json() == {"deleted": True, "id": note["id"]}
        assert (await client.get(f"/v1/{name}/{note['id']}")).status_code == 404
        assert (await client.delete(f"/v1/{name}/{note['id']}")).status_code == 404
        found = await client.post("/v1/search", json={"projectId": either_site.ours.project_id, "query": "flux"})
        assert found.json() == {"observations": []}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_another_teams_note_is_not_there(either_site: Site, method: str) -> None:
    async with (
        either_site.client(either_site.ours.key) as client,
        either_site.client(either_site.theirs.key) as stranger,
    ):
        note = await add(client, either_site, content="ours")
        foreign = await stranger.request(method, f"/v1/observations/{note['id']}")
        missing = await stranger.request(method, f"/v1/observations/{new_id()}")
        assert foreign.status_code == missing.status_code == 404
        assert foreign.json() == missing.json()
        assert (await client.get(f"/v1/observations/{note['id']}")).status_code == 200


async def test_search_finds_best_first(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        better = await add(client, either_site, content="flux flux capacitor")
        await add(client, either_site, content="nothing of the kind")
        worse = await add(client, either_site, content="a flux among many other words that are not it at all")
        body = {"projectId": either_site.ours.project_id, "query": "flux"}
        found = (await client.post("/v1/search", json=body)).json()["observations"]
        assert [note["id"] for note in found] == [better["id"], worse["id"]]
        one = (await client.post("/v1/search", json={**body, "limit": 1})).json()["observations"]
        assert [note["id"] for note in one] == [better["id"]]


async def test_search_is_narrowed(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        early = await add(client, either_site, content="flux early", occurredAtEpoch=NOW, kind="bugfix")
        late = await add(client, either_site, content="flux late", occurredAtEpoch=NOW + 1000, kind="feature")

        async def ids(**given: Any) -> set[str]:
            body = {"projectId": either_site.ours.project_id, "query": "flux", **given}
            answer = await client.post("/v1/search", json=body)
            assert answer.status_code == 200, answer.text
            return {note["id"] for note in answer.json()["observations"]}

        assert await ids() == {early["id"], late["id"]}
        assert await ids(kind="bugfix") == {early["id"]}
        assert await ids(since=NOW + 500) == {late["id"]}
        assert await ids(until=NOW + 500) == {early["id"]}
        assert await ids(file="src/none.py") == set()
        assert await ids(file="") == {early["id"], late["id"]}
        assert await ids(platformSource="elsewhere") == set()


async def test_search_goes_over_several_projects_of_ones_own(site: Site, client: httpx.AsyncClient) -> None:
    await add(client, site, content="cache here")
    other = (await site.app.accounts.create_project(site.ours.principal, "other"))[0].id
    await add(client, site, projectId=other, content="cache there")

    async def found(*more: str) -> int:
        body = {"projectId": site.ours.project_id, "query": "cache", "projectIds": list(more)}
        answer = await client.post("/v1/search", json=body)
        return len(answer.json()["observations"]) if answer.status_code == 200 else answer.status_code

    assert await found() == 1
    assert await found(other) == 2
    assert await found(other, site.ours.project_id) == 2
    assert await found(site.theirs.project_id) == 403


async def test_search_comes_page_by_page_and_in_the_order_of_time(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        for number in range(5):
            text = " ".join(["cache"] * (1 + (number * 3) % 5))
            await add(client, either_site, content=f"{text} {number}", occurredAtEpoch=NOW + number)

        async def found(**given: Any) -> list[str]:
            body = {"projectId": either_site.ours.project_id, "query": "cache", **given}
            answer = await client.post("/v1/search", json=body)
            assert answer.status_code == 200, answer.text
            return [note["content"][-1] for note in answer.json()["observations"]]

        everything = await found()
        assert sorted(everything) == list("01234")
        assert [*await found(limit=2), *await found(limit=2, offset=2), *await found(limit=2, offset=4)] == everything
        assert await found(order="time") == list("43210")
        assert await found(order="time", limit=2, offset=1) == list("32")
        assert await found(offset=200) == []


async def test_pages_in_the_order_of_time_are_of_the_same_hundred(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        for number in range(130):
            # The later, the worse it fits: a longer list of what fits would begin with others.
            text = "cache " + "padding " * number
            await add(client, either_site, content=text, title=str(number), occurredAtEpoch=NOW + number)
        body = {"projectId": either_site.ours.project_id, "query": "cache", "order": "time", "limit": 50}

        async def page(offset: int) -> list[int]:
            answer = await client.post("/v1/search", json={**body, "offset": offset})
            return [int(note["metadata"]["title"]) for note in answer.json()["observations"]]

        pages = [number for offset in (0, 50, 100) for number in await page(offset)]
        assert pages == sorted(pages, reverse=True)
        assert len(set(pages)) == len(pages) == 100


async def test_projects_are_weighed_against_each_other_as_one(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        small = (await site.app.accounts.create_project(site.ours.principal, "small"))[0].id
        for number in range(12):
            await add(client, site, content=f"what happened on day {number}", occurredAtEpoch=NOW + number)
        await add(client, site, content="rounding of the corners", occurredAtEpoch=NOW - 2)
        # Each of its words is in half of this project's notes, and so tells little within it.
        await add(client, site, projectId=small, content="rounding in the ledger", occurredAtEpoch=NOW - 1)
        await add(client, site, projectId=small, content="lunch", occurredAtEpoch=NOW + 5)

        async def found(query: str, *, limit: int) -> list[str]:
            body = {"projectId": small, "projectIds": [site.ours.project_id], "query": query, "limit": limit}
            answer = await client.post("/v1/search", json=body)
            assert answer.status_code == 200, answer.text
            return [note["content"] for note in answer.json()["observations"]]

        assert await found("rounding ledger", limit=2) == ["rounding in the ledger", "rounding of the corners"]
        assert await found("what is it", limit=2) == ["what happened on day 11", "what happened on day 10"]
        everything = await found("", limit=20)
        assert everything[-2:] == ["rounding in the ledger", "rounding of the corners"]
        assert everything.index("lunch") in {6, 7}


async def test_context_is_the_same_as_one_text(site: Site, client: httpx.AsyncClient) -> None:
    await add(client, site, content="flux one")
    await add(client, site, content="flux two")
    answer = await client.post("/v1/context", json={"projectId": site.ours.project_id, "query": "flux"})
    assert answer.status_code == 200
    notes, text = answer.json()["observations"], answer.json()["context"]
    assert len(notes) == 2
    assert all(note["content"] in text for note in notes)


@pytest.mark.parametrize("path", ["/v1/search", "/v1/context"])
@pytest.mark.parametrize(
    "given",
    [
        {"query": ""},
        {"query": "\x00"},
        {"query": "\ud800"},
        {"query": "\" OR NEAR( * ) - : ^ ' ; --"},
        {"query": "x" * 100_000},
        {"query": "flux", "file": "a\x00b\ud800"},
        {"query": "flux", "platformSource": "\x00"},
        {"query": "flux", "since": 9_999_999_999_999, "until": 0},
    ],
    ids=lambda given: str(given)[:40],
)
async def test_any_query_is_answered(either_site: Site, path: str, given: dict[str, Any]) -> None:
    async with either_site.client(either_site.ours.key) as client:
        await add(client, either_site, content="flux")
        body = json.dumps({"projectId": either_site.ours.project_id, **given})
        assert (await client.post(path, content=body)).status_code == 200


@pytest.mark.parametrize("path, most", [("/v1/search", 100), ("/v1/context", 50)])
async def test_limits_have_limits(site: Site, client: httpx.AsyncClient, path: str, most: int) -> None:
    body = {"projectId": site.ours.project_id, "query": "x"}
    for limit, status in ((1, 200), (most, 200), (0, 400), (most + 1, 400), (-1, 400)):
        assert (await client.post(path, json={**body, "limit": limit})).status_code == status


async def test_a_foreign_project_is_refused_in_bodies(site: Site, client: httpx.AsyncClient) -> None:
    for path in ("/v1/search", "/v1/context", "/v1/observations"):
        for project_id in (site.theirs.project_id, new_id()):
            body = {"projectId": project_id, "query": "x", "content": "x"}
            assert (await client.post(path, json=body)).status_code == 403


async def test_a_purge_takes_everything_of_one_project(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client, site.client(site.theirs.key) as stranger:
        note = await add(client, site, content="flux")
        event = (await client.post("/v1/events", json=site.event())).json()["event"]
        path = f"/v1/projects/{site.ours.project_id}/memory"
        assert (await stranger.delete(path)).status_code == 404
        writer = await site.key(KeyScope.READ, KeyScope.WRITE)
        assert (await client.delete(path, headers={"authorization": f"Bearer {writer}"})).status_code == 403
        answer = await client.delete(path)
        assert answer.status_code == 200
        assert answer.json()["purged"] is True
        assert answer.json()["projectId"] == site.ours.project_id
        assert sum(answer.json()["counts"].values()) >= 3
        for gone in (f"/v1/observations/{note['id']}", f"/v1/events/{event['id']}"):
            assert (await client.get(gone)).status_code == 404
        assert (await client.get("/v1/jobs")).json()["total"] == 0
        assert (await client.post("/v1/events", json=site.event())).status_code == 201
