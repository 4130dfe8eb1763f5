"""How long a project keeps what it has is said and asked over HTTP, by its own team alone."""

from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.storage import accounts
from served import Site

FOR_EVER = {"eventsDays": None, "observationsDays": None}


def path_of(project_id: str) -> str:
    return f"/v1/projects/{project_id}/retention"


async def kept(client: httpx.AsyncClient, site: Site) -> dict[str, Any]:
    answer = await client.get(path_of(site.ours.project_id))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_what_is_put_holds_until_something_else_is(either_site: Site) -> None:
    site = either_site
    path = path_of(site.ours.project_id)
    async with site.client(site.ours.key) as client:
        assert await kept(client, site) == {"projectId": site.ours.project_id, **FOR_EVER}
        for limits in ({"eventsDays": 90, "observationsDays": 365}, {"eventsDays": 30}, {"eventsDays": None}, {}):
            answer = await client.put(path, json=limits)
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"projectId": site.ours.project_id, **FOR_EVER, **limits}
            assert await kept(client, site) == answer.json()
    lines = await site.app.database.read(lambda conn: accounts.list_audit(conn, site.ours.team_id))
    details = [line.detail for line in lines if line.action == "retention.set"]
    assert details[-1] == "events 90, observations 365"
    assert {line.api_key_id for line in lines if line.action == "retention.set"} == {site.ours.principal.key_id}


@pytest.mark.parametrize("days", [0, -1, 36_501, "many", 1.5])
async def test_days_that_make_no_sense_are_refused(site: Site, client: httpx.AsyncClient, days: object) -> None:
    answer = await client.put(path_of(site.ours.project_id), json={"eventsDays": days})
    assert answer.status_code == 400
    assert await kept(client, site) == {"projectId": site.ours.project_id, **FOR_EVER}


async def test_no_other_team_and_no_key_of_another_project_sees_or_sets_it(either_site: Site) -> None:
    site = either_site
    path = path_of(site.ours.project_id)
    other, _ = await site.app.accounts.create_project(site.ours.principal, "another")
    bound = await site.key(KeyScope.ADMIN, project_id=other.id)
    for key in (site.theirs.key, bound):
        async with site.client(key) as stranger:
            assert (await stranger.get(path)).status_code == 404
            assert (await stranger.put(path, json={"eventsDays": 1})).status_code == 404
    async with site.client(site.ours.key) as client:
        assert await kept(client, site) == {"projectId": site.ours.project_id, **FOR_EVER}


async def test_a_reader_sees_it_and_only_an_admin_sets_it(site: Site) -> None:
    path = path_of(site.ours.project_id)
    async with site.client(await site.key(KeyScope.READ, KeyScope.WRITE)) as client:
        assert (await client.put(path, json={"eventsDays": 1})).status_code == 403
        assert await kept(client, site) == {"projectId": site.ours.project_id, **FOR_EVER}
    async with site.client(await site.key(KeyScope.ADMIN, project_id=site.ours.project_id)) as client:
        assert (await client.put(path, json={"eventsDays": 7})).status_code == 200
