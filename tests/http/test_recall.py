"""Recall in steps: the index, the timeline, the notes whole; and what each costs to read."""

from typing import Any

import httpx
import pytest

from onlooker.domain.tokens import estimate_tokens
from onlooker.host import new_id
from served import NOW, SECOND, Site

STEPS = 6


async def fill(client: httpx.AsyncClient, site: Site, count: int = STEPS) -> list[str]:
    """So many notes, a second apart, and between the third and the fourth a prompt; the ids in order."""
    ids = []
    for n in range(count):
        body = {
            "projectId": site.ours.project_id,
            "content": f"Step {n} of the flux",
            "occurredAtEpoch": NOW + n * SECOND,
        }
        ids.append((await client.post("/v1/observations", json=body)).json()["observation"]["id"])
    prompt = site.event(
        eventType="user_prompt",
        payload={"prompt": "Now make the flux\n\nstable, please"},
        occurredAtEpoch=NOW + 2 * SECOND + 500,
    )
    assert (await client.post("/v1/events?generate=false", json=prompt)).status_code == 201
    return ids


async def ask(client: httpx.AsyncClient, path: str, site: Site, **given: Any) -> dict[str, Any]:
    answer = await client.post(path, json={"projectId": site.ours.project_id, **given})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def notes_in(timeline: dict[str, Any]) -> list[str]:
    return [entry["observation"]["id"] for entry in timeline["entries"] if "observation" in entry]


async def test_the_index_has_a_line_a_hit_that_says_enough_to_choose(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        ids = await fill(client, either_site)
        found = await ask(client, "/v1/search/index", either_site, query="flux", limit=3)
        full = await ask(client, "/v1/search", either_site, query="flux", limit=3)
        assert [entry["id"] for entry in found["entries"]] == [note["id"] for note in full["observations"]]
        assert set(found["entries"][0]) >= {"id", "occurredAtEpoch", "kind", "title", "files", "score"}
        assert {entry["id"] for entry in found["entries"]} <= set(ids)
        assert len(found["text"].splitlines()) == 3
        assert found["tokens"] == estimate_tokens(found["text"])
        assert found["tokens"] / 3 <= 55


async def test_a_timeline_stands_around_a_note_with_the_prompts_between(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        ids = await fill(client, either_site)
        told = await ask(client, "/v1/timeline", either_site, observationId=ids[3], before=2, after=1)
        assert told["anchorId"] == ids[3]
        assert notes_in(told) == ids[1:5]
        kinds = ["prompt" if "prompt" in entry else "note" for entry in told["entries"]]
        assert kinds == ["note", "note", "prompt", "note", "note"]
        assert told["entries"][2]["prompt"]["prompt"] == "Now make the flux stable, please"
        assert told["text"].splitlines()[3].startswith(f"> {ids[3]}")
        assert told["tokens"] == estimate_tokens(told["text"])


async def test_a_timeline_stands_around_a_time_a_query_or_the_latest(site: Site, client: httpx.AsyncClient) -> None:
    ids = await fill(client, site)
    at = await ask(client, "/v1/timeline", site, atEpoch=NOW + 2 * SECOND, before=1, after=0)
    assert (notes_in(at), at["anchorId"]) == (ids[1:3], None)
    best = await ask(client, "/v1/timeline", site, query="step 4", before=0, after=0)
    assert best["anchorId"] in ids
    latest = await ask(client, "/v1/timeline", site, before=2)
    assert notes_in(latest) == ids[-3:]


async def ask_for(client: httpx.AsyncClient, site: Site, text: str, at: int, **given: Any) -> None:
    prompt = site.event(eventType="user_prompt", payload={"prompt": text}, occurredAtEpoch=at, **given)
    assert (await client.post("/v1/events?generate=false", json=prompt)).status_code == 201


def prompts_in(timeline: dict[str, Any]) -> list[str]:
    return [entry["prompt"]["prompt"] for entry in timeline["entries"] if "prompt" in entry]


async def test_a_timeline_that_has_all_notes_of_a_side_has_its_prompts_too(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        ids = await fill(client, site)
        await ask_for(client, site, "Begin", NOW - SECOND)
        await ask_for(client, site, "Go on", NOW + STEPS * SECOND)
        first = await ask(client, "/v1/timeline", site, observationId=ids[0], before=2, after=1)
        assert (prompts_in(first), notes_in(first)) == (["Begin"], ids[:2])
        last = await ask(client, "/v1/timeline", site, observationId=ids[-1], before=1, after=1)
        assert (prompts_in(last), notes_in(last)) == (["Go on"], ids[-2:])
        middle = await ask(client, "/v1/timeline", site, observationId=ids[1], before=1, after=1)
        assert prompts_in(middle) == []


async def test_a_timeline_of_many_prompts_has_the_nearest(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        ids = await fill(client, site)
        for n in range(80):
            await ask_for(client, site, f"early {n}", NOW + SECOND + n)
            await ask_for(client, site, f"late {n}", NOW + 4 * SECOND + n)
        told = await ask(client, "/v1/timeline", site, observationId=ids[3], before=3, after=3)
        prompts = prompts_in(told)
        assert "early 79" in prompts
        assert "late 0" in prompts
        assert "early 0" not in prompts
        assert len(prompts) <= 50


async def test_what_was_asked_is_told_before_anything_is_observed(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        await ask_for(client, site, "Begin", NOW)
        told = await ask(client, "/v1/timeline", site)
        assert (prompts_in(told), told["anchorId"]) == (["Begin"], None)
        session_id = told["entries"][0]["prompt"]["serverSessionId"]
        await ask_for(client, site, "Elsewhere", NOW + 1, contentSessionId="another")
        assert prompts_in(await ask(client, "/v1/timeline", site, serverSessionId=session_id)) == ["Begin"]


async def test_a_timeline_of_notes_of_one_moment_has_each_once(site: Site, client: httpx.AsyncClient) -> None:
    body = {"projectId": site.ours.project_id, "content": "same", "occurredAtEpoch": NOW}
    ids = sorted([(await client.post("/v1/observations", json=body)).json()["observation"]["id"] for _ in range(5)])
    told = await ask(client, "/v1/timeline", site, observationId=ids[2], before=1, after=1)
    assert notes_in(told) == ids[1:4]


@pytest.mark.parametrize("given", [{"query": "nothing-like-it"}, {"query": "%%% the"}, {"atEpoch": 5}, {}])
async def test_a_timeline_of_nothing_is_empty(site: Site, client: httpx.AsyncClient, given: dict[str, Any]) -> None:
    told = await ask(client, "/v1/timeline", site, **given)
    assert (told["entries"], told["tokens"]) == ([], 0)


async def test_notes_are_read_whole_in_the_order_asked_for(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        ids = await fill(client, either_site)
        unknown = new_id()
        got = await ask(client, "/v1/observations/get", either_site, ids=[ids[4], unknown, ids[0], ids[4]])
        assert [note["id"] for note in got["observations"]] == [ids[4], ids[0]]
        assert got["missing"] == [unknown]
        assert got["tokens"] == estimate_tokens(got["text"])
        assert "Step 4 of the flux" in got["text"]


async def test_another_teams_notes_are_not_there(site: Site, client: httpx.AsyncClient) -> None:
    ids = await fill(client, site)
    async with site.client(site.theirs.key) as stranger:
        theirs = {"projectId": site.theirs.project_id}
        got = await stranger.post("/v1/observations/get", json={**theirs, "ids": ids})
        assert (got.json()["observations"], got.json()["missing"]) == ([], sorted(ids))
        assert (await stranger.post("/v1/timeline", json={**theirs, "observationId": ids[0]})).status_code == 404
        for path in ("/v1/search/index", "/v1/timeline", "/v1/observations/get"):
            body = {"projectId": site.ours.project_id, "query": "flux", "ids": ids}
            assert (await stranger.post(path, json=body)).status_code == 403


@pytest.mark.parametrize("ids", [[], ["x"] * 101])
async def test_a_wrong_number_of_ids_is_refused(site: Site, client: httpx.AsyncClient, ids: list[str]) -> None:
    answer = await client.post("/v1/observations/get", json={"projectId": site.ours.project_id, "ids": ids})
    assert answer.status_code == 400


async def test_what_has_no_blanks_is_cut_and_not_left_out(site: Site, client: httpx.AsyncClient) -> None:
    body = {"projectId": site.ours.project_id, "content": "題" * 500}
    await client.post("/v1/observations", json=body)
    prompt = {**site.event(), "eventType": "user_prompt", "payload": {"prompt": "問" * 500}}
    await client.post("/v1/events?generate=false", json=prompt)
    text = (await client.post("/v1/timeline", json={"projectId": site.ours.project_id})).json()["text"]
    assert "題" * 100 in text
    assert "問" * 200 in text
