"""Storing and reading events."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.host import new_id
from served import NOW, Site

EVENT_FIELDS = {
    "id", "projectId", "teamId", "serverSessionId", "sourceAdapter", "sourceEventId", "eventType", "payload",
    "metadata", "occurredAtEpoch", "receivedAtEpoch", "createdAtEpoch",
}  # fmt: skip
JOB_FIELDS = {"id", "status", "sourceType", "sourceId", "bullmqJobId", "transport"}


async def stored(site: Site) -> int:
    async with site.client(site.ours.key) as client:
        return int((await client.get("/v1/jobs")).json()["total"])


async def test_an_event_comes_back_stored_with_its_job(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        answer = await client.post("/v1/events", json=site.event(metadata={"a": 1}, sourceEventId="s-1"))
        assert answer.status_code == 201
        event, job = answer.json()["event"], answer.json()["generationJob"]
        assert set(event) == EVENT_FIELDS
        assert (event["projectId"], event["teamId"]) == (site.ours.project_id, site.ours.team_id)
        assert (event["sourceAdapter"], event["eventType"], event["occurredAtEpoch"]) == (
            "claude-code",
            "tool_use",
            NOW,
        )
        assert (event["payload"]["tool_name"], event["metadata"], event["sourceEventId"]) == ("Bash", {"a": 1}, "s-1")
        assert event["serverSessionId"]
        assert set(job) >= JOB_FIELDS
        assert (job["status"], job["transport"], job["sourceType"]) == ("queued", "queued", "event")
        assert (job["sourceId"], job["bullmqJobId"]) == (event["id"], job["id"])
        assert "duplicate" not in answer.json()
        assert "waitTimedOut" not in answer.json()
        assert "payload" not in str(job)
        assert (await client.get(f"/v1/events/{event['id']}")).json() == {**event, "event": event}


async def test_the_same_event_again_is_the_first_one(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        first = (await client.post("/v1/events", json=either_site.event())).json()
        again = await client.post("/v1/events", json=either_site.event())
    assert again.status_code == 201
    assert again.json()["duplicate"] is True
    assert again.json()["event"] == first["event"]
    assert again.json()["generationJob"]["id"] == first["generationJob"]["id"]


async def test_sixteen_at_a_time_store_one_row(site: Site, client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/v1/events", json=site.event()) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["event"]["id"] for answer in answers}) == 1
    assert sum("duplicate" not in answer.json() for answer in answers) == 1


async def test_without_generation_there_is_no_job(site: Site, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events?generate=false", json=site.event())
    assert answer.status_code == 201
    assert "generationJob" not in answer.json()
    assert await stored(site) == 0


async def test_a_session_that_only_the_agent_named_is_opened_once(site: Site, client: httpx.AsyncClient) -> None:
    first, second = [
        (await client.post("/v1/events", json=site.event(number))).json()["event"]["serverSessionId"]
        for number in range(2)
    ]
    assert first == second
    session = (await client.get(f"/v1/sessions/{first}")).json()["session"]
    assert session["contentSessionId"] == "agent-session"


async def test_without_a_platform_the_source_names_the_adapter(site: Site, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events", json=site.event(platformSource=None, sourceType="api"))
    assert answer.json()["event"]["sourceAdapter"] == "api"


async def test_unknown_fields_are_ignored(site: Site, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events", json=site.event(anything={"new": [1]}))
    assert answer.status_code == 201


async def test_waiting_answers_when_the_job_is_done(working_site: Site) -> None:
    async with working_site.client(working_site.ours.key) as client:
        answer = await client.post("/v1/events?wait=true", json=working_site.event())
        assert answer.status_code == 201
        assert answer.json()["generationJob"]["status"] == "completed"
        assert "waitTimedOut" not in answer.json()
        event_id = answer.json()["event"]["id"]
        found = (await client.get(f"/v1/events/{event_id}/observations")).json()
        assert found["eventId"] == event_id
        assert [note["source"]["eventId"] for note in found["observations"]] == [event_id]
        # Sent again it has settled already, and nobody waits.
        again = await client.post("/v1/events?wait=true", json=working_site.event())
        assert again.json()["generationJob"]["status"] == "completed"


async def test_waiting_ends_and_says_so(site: Site, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onlooker.http.events.LONGEST_WAIT_S", 0.2)
    answer = await client.post("/v1/events?wait=true", json=site.event())
    assert answer.status_code == 201
    assert answer.json()["waitTimedOut"] is True
    assert answer.json()["generationJob"]["status"] == "queued"


async def test_a_batch_answers_in_its_order(either_site: Site) -> None:
    site = either_site
    numbers = [3, 1, 2, 1]
    async with site.client(site.ours.key) as client:
        answer = await client.post("/v1/events/batch", json=[site.event(number) for number in numbers])
    assert answer.status_code == 201
    events = answer.json()["events"]
    assert [each["event"]["occurredAtEpoch"] for each in events] == [NOW + number * 1000 for number in numbers]
    assert [each.get("duplicate", False) for each in events] == [False, False, False, True]
    assert events[1]["event"]["id"] == events[3]["event"]["id"]


async def test_five_hundred_events_are_a_batch(site: Site, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events/batch", json=[site.event(number) for number in range(500)])
    assert answer.status_code == 201
    assert len({each["event"]["id"] for each in answer.json()["events"]}) == 500


@pytest.mark.parametrize("count", [0, 501])
async def test_none_and_too_many_are_not(site: Site, client: httpx.AsyncClient, count: int) -> None:
    answer = await client.post("/v1/events/batch", json=[site.event(number) for number in range(count)])
    assert answer.status_code == 400
    assert answer.json()["issues"]
    assert await stored(site) == 0


@pytest.mark.parametrize("foreign", ["theirs", "nobody's"])
async def test_one_foreign_event_refuses_the_whole_batch(either_site: Site, foreign: str) -> None:
    site = either_site
    project_id = site.theirs.project_id if foreign == "theirs" else new_id()
    events = [site.event(0), site.event(1, projectId=project_id), site.event(2)]
    async with site.client(site.ours.key) as client:
        answer = await client.post("/v1/events/batch", json=events)
    assert answer.status_code == 403
    assert await stored(site) == 0


@pytest.mark.parametrize("project_id", ["no such project", "\x00", "\udc80", "ü", "x" * 512])
async def test_a_project_that_cannot_be_is_refused_as_a_foreign_one(either_site: Site, project_id: str) -> None:
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post("/v1/events", content=json.dumps(either_site.event(projectId=project_id)))
        foreign = await client.post("/v1/events", json=either_site.event(projectId=either_site.theirs.project_id))
    assert answer.status_code == foreign.status_code == 403
    assert answer.json() == foreign.json()


async def test_a_foreign_session_is_as_none(
    site: Site, client: httpx.AsyncClient, their_client: httpx.AsyncClient
) -> None:
    theirs = await their_client.post("/v1/sessions/start", json={"projectId": site.theirs.project_id})
    for session_id in (theirs.json()["session"]["id"], new_id(), "\x00"):
        answer = await client.post("/v1/events", json=site.event(serverSessionId=session_id))
        assert answer.status_code == 404
    assert await stored(site) == 0


async def test_what_another_team_stored_is_not_there(either_site: Site) -> None:
    async with (
        either_site.client(either_site.ours.key) as client,
        either_site.client(either_site.theirs.key) as stranger,
    ):
        event_id = (await client.post("/v1/events", json=either_site.event())).json()["event"]["id"]
        for path in (f"/v1/events/{event_id}", f"/v1/events/{event_id}/observations"):
            foreign = await stranger.get(path)
            missing = await stranger.get(path.replace(event_id, new_id()))
            assert foreign.status_code == missing.status_code == 404
            assert foreign.json() == missing.json()


@pytest.mark.parametrize("event_id", ["%00", "%ff", "a%2Fb", "%20", "x" * 1000, "%F0%9F%92%A9", "..%2F.."])
async def test_an_id_that_cannot_be_is_not_found(either_site: Site, event_id: str) -> None:
    bound = await either_site.key(KeyScope.READ, project_id=either_site.ours.project_id)
    for key in (either_site.ours.key, bound):
        async with either_site.client(key) as client:
            assert (await client.get(f"/v1/events/{event_id}")).status_code == 404


@pytest.mark.parametrize("query", ["generate=maybe", "wait=2", "generate=", "generate=%ff"])
async def test_a_query_that_is_no_yes_or_no_is_refused(site: Site, client: httpx.AsyncClient, query: str) -> None:
    answer = await client.post(f"/v1/events?{query}", json=site.event())
    assert answer.status_code == 400
    assert await stored(site) == 0


@pytest.mark.parametrize(
    "given",
    [
        {"projectId": None},
        {"projectId": ""},
        {"projectId": 7},
        {"sourceType": "elsewhere"},
        {"eventType": ""},
        {"eventType": "x" * 513},
        {"occurredAtEpoch": "yesterday"},
        {"occurredAtEpoch": 1.5},
        {"occurredAtEpoch": -1},
        {"occurredAtEpoch": 10_000_000_000_000},
        {"metadata": []},
        {"serverSessionId": 1},
        {"contentSessionId": "x" * 513},
        {"sourceEventId": {}},
    ],
    ids=str,
)
async def test_a_wrong_field_is_refused_and_named(site: Site, client: httpx.AsyncClient, given: dict[str, Any]) -> None:
    answer = await client.post("/v1/events", json=site.event(**given))
    assert answer.status_code == 400
    assert answer.json()["error"] == "InvalidInput"
    assert next(iter(given)) in answer.json()["issues"][0]
    assert await stored(site) == 0


@pytest.mark.parametrize("at", [0, 1, 9_999_999_999_999])
async def test_times_of_the_far_past_and_future_are_kept(either_site: Site, at: int) -> None:
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post("/v1/events", json=either_site.event(occurredAtEpoch=at))
    assert answer.json()["event"]["occurredAtEpoch"] == at
