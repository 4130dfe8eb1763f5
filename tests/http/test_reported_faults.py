"""What went wrong in tools of this kind, by their public bug reports, goes right here: one test a report."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from onlooker.domain.models import Scope, SearchFilter
from onlooker.storage.tables import agent_events, messages, observation_generation_jobs, observations
from served import Site
from waiting import wait_until

HOOK = "/v1/hooks/claude-code"
MARKER = "pw123-marker"


def used(use_id: str, response: Any, **given: Any) -> dict[str, Any]:
    return {
        "session_id": "s-1",
        "cwd": "/home/dev/tally",
        "hook_event_name": "PostToolUse",
        "tool_name": "Bash",
        "tool_input": {"command": f"python3 -m pytest tests/test_{use_id}.py"},
        "tool_response": response,
        "tool_use_id": use_id,
        **given,
    }


async def count(site: Site, table: Any) -> int:
    counted = select(func.count()).select_from(table)
    return await site.app.database.read(lambda conn: int(conn.execute(counted).scalar_one()))


async def settled(site: Site, jobs: int) -> None:
    """Until so many jobs are there and none is under way."""
    table = observation_generation_jobs

    async def is_so() -> bool:
        found = select(table.c.status)
        states = await site.app.database.read(lambda conn: list(conn.execute(found).scalars()))
        return len(states) == jobs and not set(states) & {"queued", "processing"}

    await wait_until(is_so, timeout_s=30)


async def is_found(site: Site, name: str) -> bool:
    """Whether the best that a search for this file finds is about it."""
    scope = Scope(site.ours.team_id, site.ours.project_id)
    hits = await site.app.recall.search(scope, name, SearchFilter(), limit=1)
    return bool(hits) and name in hits[0].observation.content


async def test_a_tools_response_is_a_text_an_object_or_a_list_and_each_is_found(working_site: Site) -> None:
    responses = ("3 passed in 0.1s", {"stdout": "3 passed in 0.1s"}, [{"type": "text", "text": "3 passed in 0.1s"}])
    async with working_site.client(working_site.ours.key) as client:
        for number, response in enumerate(responses):
            assert (await client.post(HOOK, json=used(f"shape{number}", response))).status_code == 201
    await settled(working_site, 3)
    assert [await is_found(working_site, f"test_shape{number}.py") for number in range(3)] == [True] * 3


async def test_one_tool_call_told_ten_times_at_once_and_in_a_batch_is_one_row_and_one_observation(
    working_site: Site,
) -> None:
    call = used("toolu_1", "3 passed in 0.1s")
    batch = {
        "session_id": "s-1",
        "cwd": "/home/dev/tally",
        "hook_event_name": "PostToolBatch",
        "tool_calls": [{key: call[key] for key in ("tool_name", "tool_input", "tool_response", "tool_use_id")}],
    }
    async with working_site.client(working_site.ours.key) as client:
        answers = await asyncio.gather(*(client.post(HOOK, json=each) for each in [*[call] * 10, batch]))
    assert {answer.status_code for answer in answers} == {201}
    await settled(working_site, 1)
    assert [await count(working_site, table) for table in (agent_events, observations, messages)] == [1, 1, 1]


async def test_one_result_of_any_size_does_not_keep_the_small_ones_from_being_observed(working_site: Site) -> None:
    large = used("large", {"type": "text", "file": {"filePath": "a.py", "content": "x = 1\n" * 200_000}})
    large |= {"tool_name": "Read", "tool_input": {"file_path": "/home/dev/tally/a.py"}}
    async with working_site.client(working_site.ours.key) as client:
        for payload in (large, *(used(f"small{number}", "3 passed in 0.1s") for number in range(3))):
            assert (await client.post(HOOK, json=payload)).status_code == 201
    await settled(working_site, 4)
    assert [await is_found(working_site, f"test_small{number}.py") for number in range(3)] == [True] * 3


async def test_what_is_private_stands_in_no_table_whatever_field_it_came_in(working_site: Site) -> None:
    hidden = f"help with <private>{MARKER}</private>"
    told = (
        {"session_id": "s-1", "cwd": "/w/tally", "hook_event_name": "UserPromptSubmit", "prompt": hidden},
        used("private", {"stdout": hidden}, tool_input={"command": hidden}),
        {"session_id": "s-1", "cwd": "/w/tally", "hook_event_name": "Stop", "last_assistant_message": hidden},
    )
    async with working_site.client(working_site.ours.key) as client:
        for payload in told:
            assert (await client.post(HOOK, json=payload)).status_code == 201
    await settled(working_site, 3)
    async with working_site.client(working_site.ours.key) as client:
        jobs = (await client.get("/v1/jobs")).json()["jobs"]
        shown = [(await client.get(f"/v1/jobs/{job['id']}?include=payload")).text for job in jobs]
    dumped = await working_site.app.database.read(
        lambda conn: [
            str(row) for table in (agent_events, observations, messages) for row in conn.execute(select(table))
        ]
    )
    assert "help with" in json.dumps(dumped)
    assert MARKER not in json.dumps(dumped) + json.dumps(shown)


@pytest.mark.parametrize(
    "payload, recorded, skipped",
    [
        ({key: value for key, value in used("t", "x").items() if key != "cwd"}, 1, []),
        (used("t", "x", session_id=None), 1, []),
        (used("t", "x", tool_name=""), 0, ["no_tool_name"]),
    ],
)
async def test_a_field_that_is_missing_is_counted_or_the_event_is_stored_without_it(
    client: httpx.AsyncClient, payload: dict[str, Any], recorded: int, skipped: list[str]
) -> None:
    answer = await client.post(HOOK, json=payload)
    assert answer.is_success
    assert (answer.json()["recorded"], answer.json()["skipped"]) == (recorded, skipped)


@pytest.mark.parametrize(
    "query, said",
    [
        ("don't use agents", "We don't use agents for that."),
        ("Downloads/transcripts", "They lie in ~/Downloads/transcripts by now."),
        ("multi-agent", "A multi-agent run shares one queue."),
        ("ubuntu 20.04", "It fails on Ubuntu 20.04 alone."),
        ("foo::bar", "The symbol foo::bar is exported twice."),
        ('"', None),
        ("NOT", None),
        ("*", None),
        ("", None),
    ],
)
async def test_an_ordinary_query_finds_what_it_says_and_none_is_an_error(
    either_site: Site, query: str, said: str | None
) -> None:
    owned = {"projectId": either_site.ours.project_id}
    async with either_site.client(either_site.ours.key) as client:
        for content in filter(None, (said, "Sums are rounded once.")):
            (await client.post("/v1/observations", json={**owned, "content": content})).raise_for_status()
        for path in ("/v1/search", "/v1/context", "/v1/search/index"):
            answer = await client.post(path, json={**owned, "query": query})
            assert answer.status_code == 200
        found = (await client.post("/v1/search", json={**owned, "query": query})).json()["observations"]
    assert said is None or found[0]["content"] == said
