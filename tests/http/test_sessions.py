"""Announcing, reading and ending sessions."""

import json

import httpx
import pytest

from onlooker.host import new_id
from served import Site

SESSION_FIELDS = {
    "id", "projectId", "teamId", "contentSessionId", "externalSessionId", "agentId", "agentType", "platformSource",
    "metadata", "startedAtEpoch", "endedAtEpoch", "createdAtEpoch", "updatedAtEpoch",
}  # fmt: skip


async def test_a_session_is_new_once(either_site: Site) -> None:
    body = {
        "projectId": either_site.ours.project_id,
        "contentSessionId": "c",
        "externalSessionId": "e",
        "agentId": "a",
        "agentType": "t",
        "platformSource": "cursor",
        "metadata": {"branch": "main"},
    }
    async with either_site.client(either_site.ours.key) as client:
        first, again = [await client.post("/v1/sessions/start", json=body) for _ in range(2)]
        assert (first.status_code, again.status_code) == (201, 200)
        session = first.json()["session"]
        assert set(session) == SESSION_FIELDS
        assert {name: session[name] for name in body} == body
        assert session["endedAtEpoch"] is None
        assert again.json()["session"]["id"] == session["id"]
        assert (await client.get(f"/v1/sessions/{session['id']}")).json()["session"]["id"] == session["id"]


async def test_a_session_is_known_by_either_name(site: Site, client: httpx.AsyncClient) -> None:
    body = {"projectId": site.ours.project_id, "contentSessionId": "c", "externalSessionId": "e"}
    session = (await client.post("/v1/sessions/start", json=body)).json()["session"]
    for name in ("contentSessionId", "externalSessionId"):
        answer = await client.post("/v1/sessions/start", json={"projectId": body["projectId"], name: body[name]})
        assert (answer.status_code, answer.json()["session"]["id"]) == (200, session["id"])


async def test_ending_queues_one_summary_and_again_changes_nothing(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        event = (await client.post("/v1/events", json=either_site.event())).json()["event"]
        path = f"/v1/sessions/{event['serverSessionId']}/end"
        first, again = [await client.post(path) for _ in range(2)]
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json()["session"]["endedAtEpoch"] is not None
        assert first.json()["generationJob"]["kind"] == "summary"
        assert again.json()["session"] == first.json()["session"]
        assert again.json()["generationJob"]["id"] == first.json()["generationJob"]["id"]
        assert (await client.get("/v1/jobs")).json()["total"] == 2


async def test_what_another_team_started_is_not_there(either_site: Site) -> None:
    async with (
        either_site.client(either_site.ours.key) as client,
        either_site.client(either_site.theirs.key) as stranger,
    ):
        started = await client.post("/v1/sessions/start", json={"projectId": either_site.ours.project_id})
        session_id = started.json()["session"]["id"]
        for method, path in (("GET", f"/v1/sessions/{session_id}"), ("POST", f"/v1/sessions/{session_id}/end")):
            foreign = await stranger.request(method, path)
            missing = await stranger.request(method, path.replace(session_id, new_id()))
            assert foreign.status_code == missing.status_code == 404
            assert foreign.json() == missing.json()
        assert (await client.get(f"/v1/sessions/{session_id}")).json()["session"]["endedAtEpoch"] is None


@pytest.mark.parametrize("project_id", ["nothing", "\x00"])
async def test_a_project_that_is_not_ours_is_refused(site: Site, client: httpx.AsyncClient, project_id: str) -> None:
    for given in (project_id, site.theirs.project_id):
        assert (await client.post("/v1/sessions/start", json={"projectId": given})).status_code == 403


async def test_names_of_odd_characters_are_made_storable(either_site: Site) -> None:
    body = {"projectId": either_site.ours.project_id, "contentSessionId": "a\x00\ud800", "metadata": {"\x00": "\ud800"}}
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post("/v1/sessions/start", content=json.dumps(body))
    assert answer.status_code == 201
    assert answer.json()["session"]["contentSessionId"] == "a\ufffd\ufffd"
    assert answer.json()["session"]["metadata"]["\ufffd"] == "\ufffd"
