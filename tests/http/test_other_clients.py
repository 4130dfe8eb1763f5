"""Clients that were made for a compatible server: its hooks, its MCP tools, its check of a whole deployment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.settings import load_settings
from served import NOW, Site, site_with


@dataclass
class OtherClient:
    """Sends what such a client sends, and answers what it reads; any refusal is an error to it."""

    http: httpx.AsyncClient
    project_id: str

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"content-type": "application/json"}
        answer = await self.http.request(method, path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    async def start_session(self, name: str) -> dict[str, Any]:
        """Announce a session by both its names, with what is not known as null."""
        body = {
            "projectId": self.project_id,
            "externalSessionId": name,
            "contentSessionId": name,
            "agentId": None,
            "agentType": None,
            "platformSource": "claude-code",
            "metadata": {"cwd": "/home/dev/tally"},
        }
        session: dict[str, Any] = (await self.ask("POST", "/v1/sessions/start", body))["session"]
        assert (session["projectId"], session["externalSessionId"]) == (self.project_id, name)
        assert session["contentSessionId"] == name
        assert session["teamId"]
        return session

    async def record(self, event_type: str, payload: Any, *, query: str = "", **given: Any) -> dict[str, Any]:
        body = {
            "projectId": self.project_id,
            "sourceType": "hook",
            "eventType": event_type,
            "occurredAtEpoch": NOW,
            "memorySessionId": None,
            "payload": payload,
            **given,
        }
        answer: dict[str, Any] = await self.ask("POST", f"/v1/events{query}", body)
        assert answer["event"]["projectId"] == self.project_id
        return answer


def use(number: int) -> dict[str, Any]:
    return {"tool_name": "Bash", "tool_input": {"command": f"make {number}"}, "tool_response": "ok", "cwd": "/home/dev"}


async def test_another_servers_hook_client_tells_a_session(either_site: Site) -> None:
    key = await either_site.key(KeyScope.READ, KeyScope.WRITE, project_id=either_site.ours.project_id)
    async with either_site.client(key) as http:
        client = OtherClient(http, either_site.ours.project_id)
        session = await client.start_session("content-1")
        assert (await client.start_session("content-1"))["id"] == session["id"]

        told = await client.record("tool_use", use(1), serverSessionId=session["id"], contentSessionId="content-1")
        assert told["event"]["serverSessionId"] == session["id"]
        assert told["generationJob"]["status"] == "queued"
        named = await client.record("tool_use", use(2), serverSessionId=None, contentSessionId="content-1")
        assert named["event"]["serverSessionId"] == session["id"]
        quiet = await client.record("user_prompt", {"prompt": "go on"}, query="?generate=false", serverSessionId=None)
        assert "generationJob" not in quiet

        ended = await client.ask("POST", f"/v1/sessions/{session['id']}/end", {})
        assert ended["session"]["id"] == session["id"]
        job = (await client.ask("GET", f"/v1/jobs/{ended['generationJob']['id']}"))["generationJob"]
        assert (job["id"], job["status"]) == (ended["generationJob"]["id"], "queued")


@pytest.mark.parametrize(
    "body",
    [
        {"content": "Round once, at the end.", "kind": "note", "metadata": {"title": "Rounding"}},
        {
            "narrative": "Round once, at the end.",
            "kind": "note",
            "type": "note",
            "title": "Rounding",
            "serverSessionId": None,
            "metadata": {"title": "Rounding"},
        },
    ],
)
async def test_another_servers_mcp_tools_write_and_find(either_site: Site, body: dict[str, Any]) -> None:
    async with either_site.client(either_site.ours.key) as http:
        client = OtherClient(http, either_site.ours.project_id)
        owned = {"projectId": client.project_id}
        memory = (await client.ask("POST", "/v1/memories", {**owned, **body}))["memory"]
        assert {"id", "projectId", "teamId", "serverSessionId", "kind", "content", "metadata"} <= set(memory)
        assert "Round once, at the end." in memory["content"]
        assert (memory["kind"], memory["metadata"]["kind"], memory["metadata"]["title"]) == (
            "manual",
            "note",
            "Rounding",
        )

        found = await client.ask("POST", "/v1/search", {**owned, "query": "rounding", "limit": 5})
        assert [each["id"] for each in found["observations"]] == [memory["id"]]
        context = await client.ask("POST", "/v1/context", {**owned, "query": "rounding"})
        assert context["context"] == memory["content"]
        assert [each["id"] for each in context["observations"]] == [memory["id"]]


async def test_another_servers_check_of_a_deployment_passes(home: Path, sqlite_url: str, redis_database: str) -> None:
    settings = load_settings(home=home, database_url=sqlite_url, queue_engine="bullmq", redis_url=redis_database)
    async with site_with(settings, with_worker=True) as site, site.client() as nobody:
        project_id = site.ours.project_id
        assert (await nobody.get("/healthz")).is_success
        assert (await nobody.get("/api/readiness")).is_success
        queue = (await nobody.get("/api/health")).json()["queue"]
        assert (queue["engine"], queue["redis"]["status"]) == ("bullmq", "ok")
        info = (await nobody.get("/v1/info")).json()
        assert (info["runtime"], info["postgres"]["initialized"]) == ("server-beta", True)
        assert info["boundaries"]["queueManager"]["status"] == "active"

        session = {"projectId": project_id, "contentSessionId": "content-run", "platformSource": "docker-e2e"}
        reads = await site.key(KeyScope.READ, project_id=project_id)
        for key, status in ((None, 401), ("cmem_invalid_key_for_e2e", 403), (reads, 403)):
            async with site.client(key) as refused:
                assert (await refused.post("/v1/sessions/start", json=session)).status_code == status

        async with site.client(await site.key(KeyScope.READ, KeyScope.WRITE, project_id=project_id)) as http:
            started = await http.post("/v1/sessions/start", json=session)
            assert started.status_code == 201
            client = OtherClient(http, started.json()["session"]["projectId"])
            told = await client.record(
                "observation.created",
                {"tool_name": "Read", "runId": "run"},
                query="?wait=true",
                sourceType="api",
                serverSessionId=started.json()["session"]["id"],
                contentSessionId="content-run",
                memorySessionId="memory-run",
            )
            assert told["generationJob"]["status"] == "completed"
            read = await client.ask("GET", f"/v1/events/{told['event']['id']}")
            assert read["event"] == told["event"]
            job = await client.ask("GET", f"/v1/jobs/{told['generationJob']['id']}")
            assert job["generationJob"]["id"] == told["generationJob"]["id"]
            ended = await client.ask("POST", f"/v1/sessions/{started.json()['session']['id']}/end", {})
            assert ended["session"]["endedAtEpoch"]


async def test_an_older_hook_reads_the_same_fields_whatever_became_of_it(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as http:
        client = OtherClient(http, either_site.ours.project_id)
        body = {
            "contentSessionId": "content-1",
            "tool_input": {"command": "make"},
            "tool_response": None,
            "cwd": "/dev",
        }
        queued = await client.ask("POST", "/api/sessions/observations", {**body, "tool_name": "Bash"})
        assert set(queued) == {"status", "serverSessionId", "generationJobId"}
        skipped = await client.ask("POST", "/api/sessions/observations", {**body, "tool_name": "mcp__onlooker__search"})
        assert (skipped["status"], skipped["serverSessionId"], skipped["generationJobId"]) == ("skipped", None, None)
        assert skipped["reason"]

        turn = {"contentSessionId": "content-1", "last_assistant_message": "Done."}
        assert (await client.ask("POST", "/api/sessions/summarize", turn))["status"] == "queued"
        inside = await client.ask("POST", "/api/sessions/summarize", {**turn, "agentId": "a-1"})
        assert inside["status"] == "skipped"
