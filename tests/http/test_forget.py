"""What is forgotten is gone everywhere, and does not come back."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_runner import Cli
from onlooker.domain.models import KeyScope, Scope
from onlooker.host import new_id
from onlooker.services.forget import PAGE, SHOWN
from onlooker.services.recall import NoteInput
from onlooker.storage import forgetting
from onlooker.storage.forgetting import NOTHING, Selection
from served import NOW, SECOND, Site

MARK = "Acme-Corp-Marker"


def marked(site: Site, number: int = 0, **given: Any) -> dict[str, Any]:
    """A tool use that tells of what is to be forgotten."""
    payload = {
        "tool_name": "Bash",
        "tool_input": {"command": f"pytest tests/test_{MARK}.py -k {number}"},
        "tool_response": {"stdout": f'"{MARK}" {number}: 3 passed in 0.1s', "exit_code": 0},
    }
    return site.event(number, payload=payload, sourceEventId=f"event-{number}", **given)


async def post(client: httpx.AsyncClient, path: str, body: Any) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code in {200, 201}, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def forget(client: httpx.AsyncClient, site: Site, **given: Any) -> dict[str, Any]:
    return await post(client, "/v1/forget", {"projectId": site.ours.project_id, "dryRun": False, **given})


async def found(client: httpx.AsyncClient, site: Site, query: str = MARK) -> list[dict[str, Any]]:
    body = {"projectId": site.ours.project_id, "query": query, "limit": 100}
    notes: list[dict[str, Any]] = (await post(client, "/v1/search", body))["observations"]
    return notes


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_text_leaves_every_byte_and_does_not_come_back(working_site: Site, tmp_path: Path) -> None:
    site = working_site
    async with site.client(site.ours.key) as client:
        for number in range(5):
            await post(client, "/v1/events?wait=true", marked(site, number))
        other = await post(client, "/v1/events?wait=true", site.event(9))
        assert await found(client, site)
        assert MARK.encode() in bytes_of(tmp_path)

        dry = await post(client, "/v1/forget", {"projectId": site.ours.project_id, "text": MARK.lower()})
        assert (dry["dryRun"], dry["events"]) == (True, 5)
        assert dry["observations"] == len(await found(client, site))
        assert dry["examples"]

        gone = await forget(client, site, text=MARK.lower())
        assert (gone["events"], gone["observations"]) == (5, dry["observations"])
        assert await found(client, site) == []
        assert MARK.encode().lower() not in bytes_of(tmp_path).lower()
        assert (await client.get(f"/v1/events/{other['event']['id']}")).status_code == 200

        again = await post(client, "/v1/events/batch", [marked(site, number) for number in range(5)])
        assert [each["duplicate"] for each in again["events"]] == [True] * 5
        assert all("generationJob" not in each for each in again["events"])
        assert (await client.get(f"/v1/events/{again['events'][0]['event']['id']}")).status_code == 404
        assert MARK.encode().lower() not in bytes_of(tmp_path).lower()


async def test_a_text_leaves_the_names_of_tools_and_the_reasons_of_jobs_too(working_site: Site, tmp_path: Path) -> None:
    site = working_site
    async with site.client(site.ours.key) as client:
        for number, name in enumerate((f"mcp__{MARK}__ask", "Bash")):
            payload = {"tool_name": name, "tool_input": {"n": number}, "tool_response": {"error": "no"}}
            await post(client, "/v1/events?wait=true", site.event(number, payload=payload))
        waiting = await post(client, "/v1/events", marked(site, 5))
        await client.post(f"/v1/jobs/{waiting['generationJob']['id']}/cancel", json={"reason": f"about {MARK}"})
        await forget(client, site, text=MARK)
        assert MARK.encode().lower() not in bytes_of(tmp_path).lower()
        jobs = (await client.get("/v1/jobs")).json()
        assert jobs["total"] == 3


async def test_a_note_goes_with_the_events_that_it_was_made_from(working_site: Site) -> None:
    site = working_site
    async with site.client(site.ours.key) as client:
        recorded = await post(client, "/v1/events?wait=true", marked(site))
        event_id = recorded["event"]["id"]
        notes = (await client.get(f"/v1/events/{event_id}/observations")).json()["observations"]
        gone = await forget(client, site, ids=[note["id"] for note in notes])
        assert (gone["observations"], gone["events"]) == (len(notes), 1)
        assert (await client.get(f"/v1/events/{event_id}")).status_code == 404
        assert (await client.get(f"/v1/observations/{notes[0]['id']}")).status_code == 404


async def test_what_waits_to_be_observed_is_forgotten_too(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        jobs = [(await post(client, "/v1/events", marked(site, n)))["generationJob"]["id"] for n in range(3)]
        kept = (await post(client, "/v1/events", site.event(9)))["generationJob"]["id"]
        gone = await forget(client, site, text=MARK)
        assert (gone["events"], gone["jobs"]) == (3, 3)
        for job in jobs:
            told = (await client.get(f"/v1/jobs/{job}")).json()["generationJob"]
            assert (told["status"], told["lastError"]) == ("cancelled", "what it is about was forgotten")
        assert (await client.get(f"/v1/jobs/{kept}")).json()["generationJob"]["status"] == "queued"


async def test_a_session_is_forgotten_whole(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        first = await post(client, "/v1/events", marked(site))
        session_id = first["event"]["serverSessionId"]
        end = site.event(1, eventType="turn_end", payload={"last_assistant_message": "done"})
        await post(client, "/v1/events", end)
        await post(
            client,
            "/v1/observations",
            {"projectId": site.ours.project_id, "content": MARK, "serverSessionId": session_id},
        )
        other = await post(client, "/v1/events", site.event(2, contentSessionId="another"))
        gone = await forget(client, site, serverSessionId=session_id)
        assert (gone["events"], gone["observations"]) == (2, 1)
        assert (await client.get(f"/v1/sessions/{session_id}")).status_code == 404
        assert (await client.get(f"/v1/events/{other['event']['id']}")).status_code == 200


async def test_what_is_older_is_forgotten_by_an_admin_only(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        old = await post(client, "/v1/events?generate=false", site.event(0))
        new = await post(client, "/v1/events?generate=false", site.event(10))
        before = {"beforeEpoch": NOW + 5 * SECOND}
        async with site.client(await site.key(KeyScope.WRITE)) as writer:
            body = {"projectId": site.ours.project_id, **before}
            assert (await writer.post("/v1/forget", json=body)).status_code == 403
        assert (await forget(client, site, **before))["events"] == 1
        assert (await client.get(f"/v1/events/{old['event']['id']}")).status_code == 404
        assert (await client.get(f"/v1/events/{new['event']['id']}")).status_code == 200


async def test_more_than_a_page_goes(either_site: Site) -> None:
    site = either_site
    count = PAGE + 30
    async with site.client(site.ours.key) as client:
        events = [marked(site, number, contentSessionId=None) for number in range(count)]
        await post(client, "/v1/events/batch?generate=false", events)
        for n in range(PAGE + 1):
            await post(client, "/v1/observations", {"projectId": site.ours.project_id, "content": f"{MARK} {n}"})
        gone = await forget(client, site, text=MARK)
        assert (gone["events"], gone["observations"]) == (count, PAGE + 1)


@pytest.mark.parametrize("text", ['50% "off"_now', "Zeile\nzwei", "back\\slash", "naïve 順序"])
async def test_a_text_is_meant_as_it_is_written(either_site: Site, text: str) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        hit = await post(client, "/v1/events?generate=false", site.event(0, payload={"note": f"say {text} here"}))
        await post(client, "/v1/observations", {"projectId": site.ours.project_id, "content": f"say {text} here"})
        near = await post(
            client, "/v1/events?generate=false", site.event(1, payload={"note": "50x off now Zeile zwei"})
        )
        gone = await forget(client, site, text=text)
        assert (gone["events"], gone["observations"]) == (1, 1)
        assert (await client.get(f"/v1/events/{hit['event']['id']}")).status_code == 404
        assert (await client.get(f"/v1/events/{near['event']['id']}")).status_code == 200


async def test_the_notes_with_a_text_are_looked_through_once(either_site: Site) -> None:
    site = either_site
    scope = Scope(site.ours.team_id, site.ours.project_id)
    notes = [NoteInput(f"{MARK} {number}" if number % 3 else f"other {number}") for number in range(90)]
    for note in notes:
        await site.app.recall.add(site.ours.principal, scope, note)
    wanted, page, met = Selection(text=MARK), NOTHING, list[str]()
    while page := await site.app.database.read(
        partial(forgetting.find, scope=scope, wanted=wanted, limit=20, after=page)
    ):
        met += page.observation_ids
    assert len(met) == len(set(met)) == 60
    async with site.client(site.ours.key) as client:
        assert (await forget(client, site, text=MARK))["observations"] == 60
        assert len(await found(client, site, "other")) == 30


@pytest.mark.parametrize("given", [{}, {"text": ""}, {"text": " a "}, {"ids": []}])
async def test_a_selection_of_nothing_or_of_all_is_refused(site: Site, client: httpx.AsyncClient, given: Any) -> None:
    answer = await client.post("/v1/forget", json={"projectId": site.ours.project_id, "dryRun": False, **given})
    assert answer.status_code == 400


@pytest.mark.parametrize("chosen", ["text session", "ids text", "session age", "ids age"])
async def test_a_selection_by_two_things_is_refused_and_removes_nothing(either_site: Site, chosen: str) -> None:
    site = either_site
    async with site.client(site.ours.key) as client:
        event = (await post(client, "/v1/events?generate=false", marked(site)))["event"]
        note = await post(client, "/v1/observations", {"projectId": site.ours.project_id, "content": MARK})
        given = {
            "text": {"text": MARK},
            "session": {"serverSessionId": event["serverSessionId"]},
            "ids": {"ids": [note["observation"]["id"]]},
            "age": {"beforeEpoch": NOW + 1_000_000 * SECOND},
        }
        body = {"projectId": site.ours.project_id}
        for name in chosen.split():
            body |= given[name]
        for dry_run in (True, False):
            answer = await client.post("/v1/forget", json={**body, "dryRun": dry_run})
            assert answer.status_code == 400, answer.text
        assert (await client.get(f"/v1/events/{event['id']}")).status_code == 200
        assert len(await found(client, site)) == 1


async def test_a_dry_run_says_exactly_what_goes(working_site: Site) -> None:
    site = working_site
    async with site.client(site.ours.key) as client:
        for number in range(SHOWN + 5):
            event = site.event(number, contentSessionId=f"session-{number}")
            await post(client, "/v1/events?wait=true", event)
        notes = await found(client, site, "pytest")
        assert len(notes) > SHOWN
        for given in ({"text": notes[0]["metadata"]["title"]}, {"ids": [note["id"] for note in notes[1:]]}):
            dry = await post(client, "/v1/forget", {"projectId": site.ours.project_id, **given})
            gone = await forget(client, site, **given)
            assert (dry["observations"], dry["events"]) == (gone["observations"], gone["events"])


async def test_another_teams_things_are_not_there_to_forget(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client, site.client(site.theirs.key) as stranger:
        recorded = await post(client, "/v1/events?generate=false", marked(site))
        note = await post(client, "/v1/observations", {"projectId": site.ours.project_id, "content": MARK})
        theirs = {"projectId": site.theirs.project_id, "dryRun": False}
        for given in ({"ids": [note["observation"]["id"]]}, {"serverSessionId": recorded["event"]["serverSessionId"]}):
            assert (await stranger.post("/v1/forget", json={**theirs, **given})).status_code == 404
        assert (await post(stranger, "/v1/forget", {**theirs, "text": MARK}))["events"] == 0
        ours = {"projectId": site.ours.project_id, "text": MARK}
        assert (await stranger.post("/v1/forget", json=ours)).status_code == 403
        assert len(await found(client, site)) == 1
        missing = {"projectId": site.ours.project_id, "ids": [note["observation"]["id"], new_id()], "dryRun": False}
        assert (await client.post("/v1/forget", json=missing)).status_code == 404
        assert len(await found(client, site)) == 1


async def test_reading_goes_on_while_it_forgets(working_site: Site) -> None:
    site = working_site
    async with site.client(site.ours.key) as client:
        await post(client, "/v1/events/batch", [marked(site, number) for number in range(300)])
        forgetting = asyncio.create_task(forget(client, site, text=MARK))
        answers = []
        while not forgetting.done():
            answers.append(
                (
                    await client.post("/v1/search", json={"projectId": site.ours.project_id, "query": "pytest"})
                ).status_code
            )
            answers.append(
                (await client.post("/v1/events?generate=false", json=site.event(1000 + len(answers)))).status_code
            )
        assert (await forgetting)["events"] == 300
        assert set(answers) <= {200, 201}


def test_the_command_says_what_would_go_and_then_does_it(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    project = cli.run("projects", "create", "tally", "--json").json()
    assert project["name"] == "tally"
    cli.succeed("server", "start")
    try:
        key = (cli.home / "key").read_text().strip()
        with httpx.Client(base_url=cli.runtime()["url"], headers={"x-api-key": key}, trust_env=False) as client:
            body = {"projectId": project["id"], "content": f"about {MARK}"}
            assert client.post("/v1/observations", json=body).status_code == 201
        said = cli.succeed("forget", "--project", "tally", "--text", MARK)
        assert f"about {MARK}" in said
        assert "--yes" in said
        for named in ("tally", project["id"]):
            assert cli.run("forget", "--project", named, "--text", MARK, "--json").json()["observations"] == 1
        done = cli.run("forget", "--project", "tally", "--text", MARK, "--yes", "--json").json()
        assert done == {"dryRun": False, "observations": 1, "events": 0, "jobs": 0}
        assert MARK.encode() not in bytes_of(cli.home)
        assert cli.run("forget", "--project", "tally").code == 2
        assert cli.run("forget", "--project", "tally", "--older-than", "soon").code == 2
        assert cli.run("forget", "--project", "nowhere", "--text", MARK).code == 1
    finally:
        cli.succeed("server", "stop")
