"""Raw hook payloads, and the routes of older hook clients."""

from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from served import Site


def tool_use(**given: Any) -> dict[str, Any]:
    return {
        "session_id": "agent-session",
        "cwd": "/home/dev/tally",
        "hook_event_name": "PostToolUse",
        "tool_name": "Bash",
        "tool_input": {"command": "pytest"},
        "tool_response": {"stdout": "3 passed"},
        "tool_use_id": "toolu_1",
        **given,
    }


async def test_a_hooks_payload_is_stored_as_the_agent_sent_it(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        first, again = [await client.post("/v1/hooks/claude-code", json=tool_use()) for _ in range(2)]
        assert first.status_code == 201
        assert first.json() == {"recorded": 1, "duplicates": 0, "skipped": [], "wrong": []}
        assert again.json()["duplicates"] == 1
        assert (await client.get("/v1/jobs")).json()["total"] == 1


async def test_a_payload_that_says_nothing_is_answered_and_not_stored(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/hooks/claude-code", json={})
    assert answer.status_code == 200
    assert answer.json()["recorded"] == 0
    assert answer.json()["skipped"] + answer.json()["wrong"]


@pytest.mark.parametrize("agent", ["somebody-new", "%00", "x" * 600, "a b"])
async def test_any_agents_name_is_answered(either_site: Site, agent: str) -> None:
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post(f"/v1/hooks/{agent}", json=tool_use())
    assert answer.status_code in {200, 201, 400, 404}
    assert answer.json()


@pytest.mark.parametrize("body", [[], 1, "text", None])
async def test_a_hook_sends_an_object(client: httpx.AsyncClient, body: Any) -> None:
    assert (await client.post("/v1/hooks/claude-code", json=body)).status_code == 400


async def test_an_older_hooks_tool_use_is_queued_in_the_folders_project(either_site: Site) -> None:
    body = {
        "contentSessionId": "agent-session",
        "tool_name": "Bash",
        "tool_input": {"command": "pytest"},
        "tool_response": {"stdout": "3 passed"},
        "cwd": "/home/dev/some-folder",
        "agentId": "a",
        "agentType": "explore",
        "platformSource": "claude-code",
        "toolUseId": "toolu_1",
    }
    async with either_site.client(either_site.ours.key) as client:
        answer = await client.post("/api/sessions/observations", json=body)
        assert answer.status_code == 200
        assert answer.json()["status"] == "queued"
        job = (await client.get(f"/v1/jobs/{answer.json()['generationJobId']}")).json()["generationJob"]
        assert job["serverSessionId"] == answer.json()["serverSessionId"]
        again = await client.post("/api/sessions/observations", json=body)
        assert again.json()["generationJobId"] == job["id"]
    projects = await either_site.app.accounts.list_projects(either_site.ours.principal)
    assert {project.id: project.name for project in projects}[job["projectId"]] == "some-folder"


async def test_an_older_hooks_events_go_to_the_keys_project(site: Site) -> None:
    key = await site.key(KeyScope.WRITE, KeyScope.READ, project_id=site.ours.project_id)
    async with site.client(key) as client:
        body = {"contentSessionId": "s", "tool_name": "Bash", "cwd": "/home/dev/some-folder"}
        queued = (await client.post("/api/sessions/observations", json=body)).json()
        job = (await client.get(f"/v1/jobs/{queued['generationJobId']}")).json()["generationJob"]
    assert job["projectId"] == site.ours.project_id


async def test_an_older_hooks_turn_is_summarised(client: httpx.AsyncClient) -> None:
    body = {"contentSessionId": "agent-session", "last_assistant_message": "Done.", "platformSource": "claude-code"}
    answer = await client.post("/api/sessions/summarize", json=body)
    assert answer.status_code == 200
    assert answer.json()["status"] == "queued"
    assert answer.json()["serverSessionId"]


@pytest.mark.parametrize("path", ["/api/sessions/observations", "/api/sessions/summarize"])
async def test_an_older_hook_names_its_session(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json={"tool_name": "Bash"})).status_code == 400
    assert (await client.post(path, json={"contentSessionId": "", "tool_name": "Bash"})).status_code == 400
