"""Generation jobs: listed, read, retried, cancelled."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.host import new_id
from served import Site


async def queue(client: httpx.AsyncClient, site: Site, number: int = 0) -> dict[str, Any]:
    job: dict[str, Any] = (await client.post("/v1/events", json=site.event(number))).json()["generationJob"]
    return job


async def test_jobs_are_listed_latest_first_in_pages(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        queued = [(await queue(client, either_site, number))["id"] for number in range(5)]
        page = (await client.get("/v1/jobs", params={"limit": 2, "offset": 1})).json()
        assert {name: page[name] for name in ("total", "limit", "offset")} == {"total": 5, "limit": 2, "offset": 1}
        assert len(page["jobs"]) == 2
        everything = (await client.get("/v1/jobs")).json()["jobs"]
        assert {job["id"] for job in everything} == set(queued)
        assert page["jobs"] == everything[1:3]


async def test_jobs_of_every_status_are_listed_in_one_order(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        queued = [(await queue(client, either_site, number))["id"] for number in range(7)]
        for each in queued[1::3]:
            assert (await client.post(f"/v1/jobs/{each}/cancel")).status_code == 200
        everything = (await client.get("/v1/jobs")).json()["jobs"]
        assert {job["status"] for job in everything} == {"queued", "cancelled"}
        latest_first = sorted(everything, key=lambda job: (job["createdAtEpoch"], job["id"]), reverse=True)
        assert [job["id"] for job in everything] == [job["id"] for job in latest_first]
        for start in range(8):
            page = (await client.get("/v1/jobs", params={"limit": 2, "offset": start})).json()
            assert (page["jobs"], page["total"]) == (everything[start : start + 2], 7)


async def test_the_list_is_narrowed(site: Site, client: httpx.AsyncClient) -> None:
    job = await queue(client, site)

    async def total(**params: Any) -> int:
        return int((await client.get("/v1/jobs", params=params)).json()["total"])

    assert await total(status="queued") == 1
    assert await total(status="completed") == 0
    assert await total(source_type="event") == 1
    assert await total(source_type="session") == 0
    assert await total(since=job["createdAtEpoch"]) == 1
    assert await total(since=job["createdAtEpoch"] + 1) == 0


async def test_the_list_is_narrowed_by_other_servers_names_and_by_times_as_text(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        job = await queue(client, either_site)
        event = (await client.get("/v1/jobs")).json()["jobs"][0]
        await client.post(f"/v1/sessions/{event['serverSessionId']}/end")
        made = datetime.fromtimestamp(job["createdAtEpoch"] / 1000, UTC)

        async def sources(**params: Any) -> set[str]:
            return {each["sourceType"] for each in (await client.get("/v1/jobs", params=params)).json()["jobs"]}

        assert await sources(source_type="agent_event") == {"event"}
        assert await sources(source_type="session_summary") == {"session"}
        assert await sources(source_type="observation_reindex") == set()
        assert await sources(since=made.isoformat(timespec="milliseconds")) == {"event", "session"}
        assert await sources(since=(made - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")) == {
            "event",
            "session",
        }
        assert await sources(since=(made + timedelta(days=1)).isoformat(timespec="seconds")) == set()
        assert await sources(since=(made - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")) == {"event", "session"}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "offset=-1", "status=lost", "source_type=x", "since=-1", "since=x"]
)
async def test_a_wrong_question_is_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["issues"][0]


async def test_lists_of_a_team_and_of_a_project_are_its_members_only(either_site: Site) -> None:
    site = either_site
    async with site.client(site.ours.key) as client, site.client(site.theirs.key) as stranger:
        job = await queue(client, site)
        for path in (f"/v1/teams/{site.ours.team_id}/jobs", f"/v1/projects/{site.ours.project_id}/jobs"):
            assert [each["id"] for each in (await client.get(path)).json()["jobs"]] == [job["id"]]
            assert (await stranger.get(path)).status_code == 404
        assert (await stranger.get("/v1/jobs")).json()["total"] == 0


async def test_a_job_shows_its_payload_only_to_an_admin_who_asks(either_site: Site) -> None:
    site = either_site
    reader = await site.key(KeyScope.READ, KeyScope.WRITE)
    async with site.client(site.ours.key) as client, site.client(reader) as other:
        job = await queue(client, site)
        path = f"/v1/jobs/{job['id']}"
        plain = (await client.get(path)).json()["generationJob"]
        assert "payloads" not in plain
        assert "pytest" not in str(plain)
        assert (await other.get(path)).status_code == 200
        assert (await other.get(path, params={"include": "payload"})).status_code == 403
        shown = (await client.get(path, params={"include": "payload"})).json()["generationJob"]
        assert [payload["tool_name"] for payload in shown["payloads"]] == ["Bash"]
        assert (await client.get(path, params={"include": "everything"})).status_code == 400


async def test_a_job_is_cancelled_once_and_can_be_retried(either_site: Site) -> None:
    async with either_site.client(either_site.ours.key) as client:
        path = f"/v1/jobs/{(await queue(client, either_site))['id']}"
        first, again = [(await client.post(f"{path}/cancel")).json() for _ in range(2)]
        assert (first["generationJob"]["status"], first["alreadyCancelled"]) == ("cancelled", False)
        assert again["alreadyCancelled"] is True
        retried, twice = [(await client.post(f"{path}/retry")).json() for _ in range(2)]
        assert (retried["generationJob"]["status"], retried["retriedCount"], retried["alreadyQueued"]) == (
            "queued",
            1,
            False,
        )
        assert (twice["retriedCount"], twice["alreadyQueued"]) == (0, True)


async def test_a_completed_job_is_neither_retried_nor_cancelled(working_site: Site) -> None:
    async with working_site.client(working_site.ours.key) as client:
        done = await client.post("/v1/events?wait=true", json=working_site.event())
        path = f"/v1/jobs/{done.json()['generationJob']['id']}"
        for action in ("retry", "cancel"):
            answer = await client.post(f"{path}/{action}")
            assert answer.status_code == 409
            assert answer.json()["error"] == "IllegalTransition"


async def test_a_retried_job_runs(working_site: Site) -> None:
    site = working_site
    async with site.client(site.ours.key) as client:
        done = await client.post("/v1/events?wait=true", json=site.event())
        assert done.json()["generationJob"]["status"] == "completed"
        # A queued job of a session whose worker is stopped would stay; here the worker takes it from the retry.
        summary = (await client.post(f"/v1/sessions/{done.json()['event']['serverSessionId']}/end")).json()
        job_id = summary["generationJob"]["id"]
        assert await site.app.waiters.wait(job_id, timeout_s=10)
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["generationJob"]["status"] == "completed"


async def test_another_teams_job_is_not_there(either_site: Site) -> None:
    async with (
        either_site.client(either_site.ours.key) as client,
        either_site.client(either_site.theirs.key) as stranger,
    ):
        job_id = (await queue(client, either_site))["id"]
        for method, path in (("GET", ""), ("POST", "/retry"), ("POST", "/cancel")):
            foreign = await stranger.request(method, f"/v1/jobs/{job_id}{path}")
            missing = await stranger.request(method, f"/v1/jobs/{new_id()}{path}")
            assert foreign.status_code == missing.status_code == 404
            assert foreign.json() == missing.json()
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["generationJob"]["status"] == "queued"
