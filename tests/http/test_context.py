"""The context of a new session over HTTP, and as an agent's hook is answered."""

from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.host import now_ms
from served import Site

NOTE = "Amounts are Decimal, never float: floats lose cents in reports"


async def add_note(site: Site, client: httpx.AsyncClient, content: str = NOTE) -> str:
    body = {"projectId": site.ours.project_id, "content": content, "kind": "decision"}
    answer = await client.post("/v1/observations", json=body)
    assert answer.status_code == 201
    note_id: str = answer.json()["observation"]["id"]
    return note_id


def started(name: str = "SessionStart", **given: Any) -> dict[str, Any]:
    return {"session_id": "s-1", "cwd": "/home/dev/elsewhere", "hook_event_name": name, "source": "startup", **given}


async def test_the_context_of_a_project_is_text_markdown_ids_and_cost(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        note_id = await add_note(either_site, client)
        told = (await client.get(f"/v1/context/session?projectId={either_site.ours.project_id}&budget=500")).json()
    assert NOTE[:30] in told["markdown"]
    assert told["text"].startswith("<onlooker-context>")
    assert told["observationIds"] == [note_id]
    assert 0 < told["tokens"] <= told["budget"] == 500


async def test_with_a_question_or_a_file_only_what_fits_is_told(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        await add_note(either_site, client)
        other = await add_note(either_site, client, "Deploys go through staging")
        asked = f"/v1/context/session?projectId={either_site.ours.project_id}"
        assert (await client.get(f"{asked}&query=deploys")).json()["observationIds"] == [other]
        assert (await client.get(f"{asked}&file=src/nowhere.py")).json()["text"] == ""
        assert len((await client.get(f"{asked}&query=%20&file=")).json()["observationIds"]) == 2


@pytest.mark.parametrize("query", ["", "projectId=&budget=500", "projectId=x&budget=1", "projectId=x&budget=much"])
async def test_a_context_needs_a_project_and_a_possible_budget(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/context/session?{query}")).status_code == 400


async def test_another_teams_project_is_refused(site: Site, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/v1/context/session?projectId={site.theirs.project_id}")
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "agent, name, where",
    [
        ("claude-code", "SessionStart", ("hookSpecificOutput", "additionalContext")),
        ("codex", "SessionStart", ("hookSpecificOutput", "additionalContext")),
        ("gemini-cli", "SessionStart", ("hookSpecificOutput", "additionalContext")),
        ("cursor", "sessionStart", ("additional_context",)),
        ("opencode", "session.created", ("additional_context",)),
    ],
)
async def test_each_agent_gets_the_context_in_its_own_words(
    site: Site, agent: str, name: str, where: tuple[str, ...]
) -> None:
    key = await site.key(KeyScope.READ, KeyScope.WRITE, project_id=site.ours.project_id)
    async with site.client(key) as client:
        await add_note(site, client)
        told = (await client.post(f"/v1/hooks/{agent}/context", json=started(name))).json()
    for part in where:
        told = told[part]
    assert NOTE[:30] in told


async def test_a_session_start_is_stored_and_answered_in_one(client: httpx.AsyncClient) -> None:
    async def duplicates(at: int, query: str) -> int:
        headers = {"x-onlooker-at": str(at)}
        assert (
            await client.post(f"/v1/hooks/claude-code/context{query}", json=started(), headers=headers)
        ).json() == {}
        told: int = (await client.post("/v1/hooks/claude-code", json=started(), headers=headers)).json()["duplicates"]
        return told

    now = now_ms()
    assert await duplicates(now, "") == 1
    assert await duplicates(now - 1, "?store=false") == 0


async def test_a_key_that_may_not_read_is_told_nothing(site: Site) -> None:
    async with site.client(await site.key(KeyScope.WRITE, project_id=site.ours.project_id)) as writer:
        async with site.client(site.ours.key) as client:
            await add_note(site, client)
        assert (await writer.post("/v1/hooks/claude-code/context", json=started())).json() == {}


@pytest.mark.parametrize("name", ["PostToolUse", "Stop", "PreCompact", "SessionEnd"])
async def test_no_other_event_is_answered_with_context(site: Site, name: str) -> None:
    key = await site.key(KeyScope.READ, KeyScope.WRITE, project_id=site.ours.project_id)
    async with site.client(key) as client:
        await add_note(site, client)
        told = await client.post("/v1/hooks/claude-code/context", json=started(name, tool_name="Bash"))
    assert told.json() == {}


async def test_a_prompt_is_answered_with_the_notes_that_fit_it_and_no_others(site: Site) -> None:
    key = await site.key(KeyScope.READ, KeyScope.WRITE, project_id=site.ours.project_id)
    async with site.client(key) as client:
        fitting = await add_note(site, client)
        await add_note(site, client, "The nightly build runs at four")

        async def answered(prompt: str) -> str:
            told = await client.post("/v1/hooks/claude-code/context", json=started("UserPromptSubmit", prompt=prompt))
            output = told.json().get("hookSpecificOutput", {})
            return str(output.get("additionalContext", ""))

        assert fitting in await answered("why do floats lose cents here?")
        assert "nightly" not in await answered("why do floats lose cents here?")
        assert await answered("please continue") == ""
        assert await answered("what is for lunch in reports of the day, and who cooks it today") == ""
