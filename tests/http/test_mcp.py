"""The protocol as clients see it: the SDK's own client over HTTP and over pipes, against a running server."""

import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

from cli_runner import EXECUTABLE, Cli
from onlooker.domain.models import KeyScope
from served import NOW, SECOND, Site

INITIALIZE = (
    b'{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"t","version":"1"}}}'
)
READING = {
    "search", "timeline", "get_observations", "observation_search", "observation_context",
    "observation_generation_status",
}  # fmt: skip
WRITING = {"observation_add", "observation_record_event"}


@asynccontextmanager
async def connected(url: str, key: str, *, project: str | None = None, mode: str = "auto") -> AsyncIterator[Client]:
    """The SDK's client with a key, after its handshake."""
    headers = {"authorization": f"Bearer {key}", **({} if project is None else {"x-onlooker-project": project})}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(f"{url}/v1/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def call(client: Client, name: str, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(name, arguments)
    assert isinstance(result, CallToolResult)
    return result


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_note_goes_in_and_comes_back_in_steps(either_site: Site, mode: str) -> None:
    async with connected(either_site.url, either_site.ours.key, mode=mode) as client:
        added = await call(
            client, "observation_add", content="The flux is damped twice", kind="decision", title="Damping"
        )
        note_id = added.structured_content["observation"]["id"]

        found = await call(client, "search", query="flux damped")
        assert [entry["id"] for entry in found.structured_content["entries"]] == [note_id]
        assert note_id in text_of(found)
        assert "text" not in found.structured_content

        whole = await call(client, "get_observations", ids=[note_id])
        assert "The flux is damped twice" in text_of(whole)
        assert whole.structured_content["tokens"] > 0

        around = await call(client, "timeline", observationId=note_id)
        assert around.structured_content["anchorId"] == note_id


async def test_every_tool_says_what_it_takes_and_answers(site: Site) -> None:
    async with connected(site.url, site.ours.key) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} >= READING | WRITING
    for tool in tools:
        assert tool.description is not None
        assert "Example: {" in tool.description
        example = json.loads(tool.description.partition("Example: ")[2])
        assert set(tool.input_schema["required"]) <= set(example) <= set(tool.input_schema["properties"])
        assert "projectId" not in tool.input_schema["required"]
        assert not {"anyOf", "oneOf", "allOf"} & set(tool.input_schema)
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint == (tool.name in READING | {"session_context"})


async def test_a_reading_key_sees_and_may_call_no_tool_that_writes(site: Site) -> None:
    key = await site.key(KeyScope.READ)
    async with connected(site.url, key) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names >= READING
        assert not names & WRITING
        refused = await call(client, "observation_add", content="x")
        assert refused.is_error
        assert "no tool" in text_of(refused)


async def test_an_event_is_recorded_and_its_job_followed(working_site: Site) -> None:
    async with connected(working_site.url, working_site.ours.key) as client:
        event = working_site.event()
        del event["projectId"]
        recorded = await call(client, "observation_record_event", **event)
        job_id = recorded.structured_content["generationJob"]["id"]
        status = await call(client, "observation_generation_status", jobId=job_id)
        assert status.structured_content["generationJob"]["id"] == job_id


@pytest.mark.parametrize(
    "name, arguments, told",
    [
        ("search", {}, "query"),
        ("search", {"query": "x", "limit": 0}, "limit"),
        ("get_observations", {"ids": []}, "ids"),
        ("timeline", {"observationId": "none"}, "come from search"),
        ("observation_generation_status", {"jobId": "evt_none"}, "observation_record_event"),
        ("observation_generation_status", {}, "jobId"),
        ("search", {"query": "x", "projectId": "another"}, "only tally"),
    ],
)
async def test_a_wrong_call_is_a_tool_error_that_says_what_to_do(
    site: Site, name: str, arguments: dict[str, Any], told: str
) -> None:
    async with connected(site.url, site.ours.key) as client:
        result = await client.session.call_tool(name, arguments)
        assert isinstance(result, CallToolResult)
        assert result.is_error
        assert told in text_of(result)
        assert text_of(result).endswith(".")


async def test_notes_come_as_the_text_that_the_tool_promises(site: Site) -> None:
    async with connected(site.url, site.ours.key) as client:
        added = await call(client, "observation_add", content="The flux is damped")
        note_id = added.structured_content["observation"]["id"]
        joined = await call(client, "observation_context", query="flux")
        assert text_of(joined) == "The flux is damped"
        assert [each["id"] for each in joined.structured_content["observations"]] == [note_id]
        some = await call(client, "get_observations", ids=[note_id, "none"])
        assert "The flux is damped" in text_of(some)
        assert "none: no such note" in text_of(some)


HALVED = [
    ("observation_add", {"content": "half a \ud83d character"}),
    ("search", {"query": "half \ud83d"}),
    ("get_observations", {"ids": ["\ud83d"]}),
]


@pytest.mark.parametrize("name, arguments", HALVED)
async def test_half_a_character_is_read_as_over_rest(site: Site, name: str, arguments: dict[str, Any]) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    async with site.client(site.ours.key) as client:
        answer = await client.post("/v1/mcp", content=json.dumps(message).encode(), headers=headers)
    assert not answer.json()["result"]["isError"], answer.text


async def test_a_team_of_several_projects_is_asked_which(site: Site) -> None:
    other, _ = await site.app.accounts.create_project(site.ours.principal, "abacus")
    async with connected(site.url, site.ours.key) as client:
        asked = await call(client, "search", query="flux")
        assert asked.is_error
        assert "abacus, tally" in text_of(asked)
        await call(client, "observation_add", content="flux in abacus", projectId="abacus")
        found = await call(client, "search", query="flux", projectId=other.id)
        assert len(found.structured_content["entries"]) == 1
    async with connected(site.url, site.ours.key, project="abacus") as client:
        assert len((await call(client, "search", query="flux")).structured_content["entries"]) == 1
        assert [each.name for each in (await client.list_resources()).resources] == ["flux in abacus"]
    bound = await site.key(KeyScope.READ, project_id=site.ours.project_id)
    async with connected(site.url, bound) as client:
        assert (await call(client, "search", query="flux")).structured_content["entries"] == []
        assert (await call(client, "search", query="flux", projectId="abacus")).is_error


async def test_recent_notes_are_resources(site: Site) -> None:
    async with connected(site.url, site.ours.key) as client:
        for n in range(3):
            await call(client, "observation_add", content=f"note {n}", occurredAtEpoch=NOW + n * SECOND)
        listed = (await client.list_resources()).resources
        assert [each.name for each in listed] == ["note 2", "note 1", "note 0"]
        read = await client.read_resource(listed[1].uri)
        assert "note 1" in str(read.contents[0])


async def test_a_session_starts_with_what_is_known(site: Site) -> None:
    async with connected(site.url, site.ours.key) as client:
        empty = await call(client, "session_context")
        assert (text_of(empty), empty.structured_content["tokens"]) == ("Nothing found.", 0)
        await call(client, "observation_add", content="Deploys go through staging", kind="decision")
        await call(client, "observation_add", content="The parser keeps comments", kind="decision")
        known = await call(client, "session_context", budget=800)
        assert "staging" in text_of(known)
        assert known.structured_content["tokens"] <= 800
        assert not {"text", "markdown"} & set(known.structured_content)
        fitting = await call(client, "session_context", query="parser comments")
        assert "parser" in text_of(fitting)
        assert "staging" not in text_of(fitting)

        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["start_session"]
        (message,) = (await client.get_prompt("start_session")).messages
        assert "staging" in str(message.content)
        (about,) = (await client.get_prompt("start_session", {"about": "parser"})).messages
        assert "staging" not in str(about.content)


async def test_without_a_key_there_is_no_protocol(site: Site) -> None:
    async with site.client() as client:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert (await client.post("/v1/mcp", json=message)).status_code == 401
        client.headers["authorization"] = "Bearer onl_wrong"
        assert (await client.post("/v1/mcp", json=message)).status_code == 403


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"jsonrpc":"2.0"}', b"\xff", b'"' + b"x" * 1_048_577 + b'"'])
async def test_what_is_not_of_the_protocol_is_refused_and_harms_nothing(site: Site, body: bytes) -> None:
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    async with site.client(site.ours.key) as client:
        answer = await client.post("/v1/mcp", content=body, headers=headers)
        assert 400 <= answer.status_code < 500
    async with connected(site.url, site.ours.key) as client:
        assert (await client.list_tools()).tools


@asynccontextmanager
async def piped(cli: Cli, *arguments: str) -> AsyncIterator[Client]:
    """The SDK's client over the pipes of `onlooker mcp`."""
    parameters = StdioServerParameters(command=str(EXECUTABLE), args=["mcp", *arguments], env=cli.env)
    async with Client(parameters) as client:
        yield client


async def test_over_pipes_it_talks_to_the_running_server(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    cli.succeed("server", "start")
    try:
        async with piped(cli) as client:
            await call(client, "observation_add", content="said over pipes")
        key = (cli.home / "key").read_text().strip()
        async with connected(cli.runtime()["url"], key) as client:
            assert "said over pipes" in text_of(await call(client, "search", query="pipes"))
        remote = Cli(tmp_path / "elsewhere")
        async with piped(remote, "--url", cli.runtime()["url"], "--key", key) as client:
            assert "said over pipes" in text_of(await call(client, "search", query="pipes"))
        assert not remote.home.exists()
    finally:
        cli.succeed("server", "stop")


async def test_over_pipes_the_store_is_opened_where_no_server_runs(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    async with piped(cli) as client:
        await call(client, "observation_add", content="kept without a server")
        assert "kept without" in text_of(await call(client, "search", query="server"))
        recorded = await call(
            client, "observation_record_event", sourceType="api", eventType="tool_use", occurredAtEpoch=NOW
        )
        assert recorded.structured_content["generationJob"]["status"] == "queued"


def test_over_pipes_every_request_gets_an_answer(tmp_path: Path) -> None:
    requests = [
        b"not json",
        b'{"jsonrpc":"2.0","id":1,"method":"server/discover"}',
        INITIALIZE,
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b"",
        b'{"jsonrpc":"2.0","id":"three","method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":4,"method":"no/such"}',
        b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":[]}',
        b'{"jsonrpc":"2.0","id":"\\ud83d","method":"tools/list"}',
    ]
    cli = Cli(tmp_path / "home")
    ended = subprocess.run(
        [EXECUTABLE, "mcp"],
        env={**cli.env, "PYTHONIOENCODING": "ascii"},
        input=b"\n".join(requests),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answers = {answer["id"]: answer for answer in map(json.loads, ended.stdout.splitlines())}
    assert set(answers) == {None, 1, 2, "three", 4, 5, "\ud83d"}
    assert answers[2]["result"]["serverInfo"]["name"] == "onlooker"
    assert answers["three"]["result"]["tools"]
    assert all("error" in answers[each] for each in (None, 1, 4, 5))


def test_over_pipes_a_server_that_is_away_is_an_error_that_says_so(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    asked = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'
    ended = subprocess.run(
        [EXECUTABLE, "mcp", "--url", f"http://127.0.0.1:{port}", "--key", "onl_x"],
        env=cli.env,
        input=asked,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0
    assert "onlooker server start" in json.loads(ended.stdout)["error"]["message"]
