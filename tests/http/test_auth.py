"""Who is let in: keys, scopes, and local development without one."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from onlooker.domain.models import KeyScope
from onlooker.host import now_ms
from onlooker.http.asgi import OPERATIONS
from onlooker.http.operation import Operation
from onlooker.settings import AuthMode, Settings
from served import Site, site_with

GUARDED = [operation for operation in OPERATIONS if operation.scope is not None]
UNKNOWN_KEY = "onl_" + "x" * 43


def path_of(operation: Operation) -> str:
    return operation.path.replace("{", "").replace("}", "")


@pytest.mark.parametrize("operation", GUARDED, ids=lambda each: f"{each.method} {each.path}")
async def test_without_a_key_nothing_is_answered_and_the_body_does_not_matter(site: Site, operation: Operation) -> None:
    async with site.client() as nobody:
        answer = await nobody.request(operation.method, path_of(operation), content=b"{ not JSON")
    assert answer.status_code == 401
    assert answer.json()["error"] == "Unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("operation", GUARDED, ids=lambda each: f"{each.method} {each.path}")
async def test_an_unknown_key_is_refused_before_the_body(site: Site, operation: Operation) -> None:
    async with site.client(UNKNOWN_KEY) as stranger:
        answer = await stranger.request(operation.method, path_of(operation), content=b"{ not JSON")
    assert answer.status_code == 403
    assert answer.json()["error"] == "Forbidden"


@pytest.mark.parametrize("operation", GUARDED, ids=lambda each: f"{each.method} {each.path}")
async def test_a_key_of_too_narrow_a_scope_is_refused_before_the_body(site: Site, operation: Operation) -> None:
    narrow = KeyScope.READ if operation.scope is not KeyScope.READ else KeyScope.WRITE
    async with site.client(await site.key(narrow)) as caller:
        answer = await caller.request(operation.method, path_of(operation), content=b"{ not JSON")
    assert answer.status_code == 403


async def test_an_oversized_body_of_nobody_is_not_even_weighed(site: Site) -> None:
    async with site.client() as nobody:
        answer = await nobody.post("/v1/events", content=b"x" * 2_000_000)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "name, value", [("authorization", "Bearer {}"), ("authorization", "bearer  {}"), ("x-api-key", "{}")]
)
async def test_a_key_may_come_in_either_header(site: Site, name: str, value: str) -> None:
    async with site.client() as caller:
        answer = await caller.get("/v1/jobs", headers={name: value.format(site.ours.key)})
    assert answer.status_code == 200


async def test_another_scheme_beside_an_api_key_does_not_matter(site: Site) -> None:
    async with site.client() as caller:
        answer = await caller.get("/v1/jobs", headers={"authorization": "Basic eDp5", "x-api-key": site.ours.key})
    assert answer.status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Basic abc", "onl_without_a_scheme"])
async def test_a_header_without_a_key_is_as_none(site: Site, value: str) -> None:
    async with site.client() as caller:
        assert (await caller.get("/v1/jobs", headers={"authorization": value})).status_code == 401


@pytest.mark.parametrize("key", ["onl_ü".encode(), b"x" * 5000, b"onl_\xff\xfe"])
async def test_a_key_of_odd_bytes_is_refused(site: Site, key: bytes) -> None:
    async with site.client() as caller:
        answer = await caller.get("/v1/jobs", headers=[(b"x-api-key", key)])
    assert answer.status_code == 403


async def test_an_expired_key_is_refused(site: Site) -> None:
    key = await site.key(KeyScope.READ, expires_at=now_ms() - 1)
    async with site.client(key) as caller:
        assert (await caller.get("/v1/jobs")).status_code == 403


async def test_a_revoked_key_is_refused_at_once(site: Site) -> None:
    made = await site.app.accounts.create_key(site.ours.principal, scopes=frozenset({KeyScope.READ}))
    async with site.client(made.key) as caller:
        assert (await caller.get("/v1/jobs")).status_code == 200
        await site.app.accounts.revoke_key(site.ours.principal, made.stored.id)
        assert (await caller.get("/v1/jobs")).status_code == 403


async def test_a_key_of_one_project_reaches_no_other(site: Site) -> None:
    other, _ = await site.app.accounts.create_project(site.ours.principal, "other")
    async with site.client(await site.key(KeyScope.ADMIN, project_id=other.id)) as bound:
        assert (await bound.post("/v1/events", json=site.event())).status_code == 403
        assert (await bound.post("/v1/events", json=site.event(projectId=other.id))).status_code == 201
        assert (await bound.get(f"/v1/projects/{site.ours.project_id}/jobs")).status_code == 404
        assert (await bound.get("/v1/jobs")).json()["total"] == 1


@pytest.mark.parametrize("path", ["/healthz", "/api/readiness", "/api/health", "/v1/info", "/openapi.json", "/docs"])
async def test_what_tells_nothing_private_needs_no_key(site: Site, path: str) -> None:
    async with site.client() as nobody:
        assert (await nobody.get(path)).status_code == 200


class TestLocalDevelopment:
    async def ask(self, settings: Settings, headers: dict[str, str], **given: Any) -> httpx.Response:
        async with site_with(replace(settings, **given)) as site, site.client() as nobody:
            return await nobody.get("/v1/jobs", headers=headers)

    async def test_needs_no_key_from_this_machine(self, settings: Settings) -> None:
        answer = await self.ask(settings, {}, auth_mode=AuthMode.LOCAL_DEV, allow_local_dev_bypass=True)
        assert answer.status_code == 200

    @pytest.mark.parametrize("host", ["localhost", "localhost:37878", "127.0.0.1", "[::1]", "[::1]:80"])
    async def test_knows_the_names_of_this_machine(self, settings: Settings, host: str) -> None:
        given: dict[str, Any] = {"auth_mode": AuthMode.LOCAL_DEV, "allow_local_dev_bypass": True}
        assert (await self.ask(settings, {"host": host}, **given)).status_code == 200

    @pytest.mark.parametrize(
        "given",
        [
            {"auth_mode": AuthMode.LOCAL_DEV, "allow_local_dev_bypass": False},
            {"auth_mode": AuthMode.API_KEY, "allow_local_dev_bypass": True},
        ],
    )
    async def test_needs_both_settings(self, settings: Settings, given: dict[str, object]) -> None:
        assert (await self.ask(settings, {}, **given)).status_code == 401

    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "attacker.example"},
            {"host": "localhost.attacker.example"},
            {"host": "[::1"},
            {"host": ""},
            {"x-forwarded-for": "127.0.0.1"},
            {"forwarded": "for=127.0.0.1"},
            {"x-real-ip": "127.0.0.1"},
            {"via": "1.1 proxy"},
            {"x-forwarded-proto": "https"},
            {"cf-connecting-ip": "127.0.0.1"},
            {"origin": "https://attacker.example"},
            {"origin": "http://localhost.attacker.example"},
            {"origin": "null"},
        ],
    )
    async def test_does_not_hold_for_another_host_or_site_or_behind_a_proxy(
        self, settings: Settings, headers: dict[str, str]
    ) -> None:
        given: dict[str, Any] = {"auth_mode": AuthMode.LOCAL_DEV, "allow_local_dev_bypass": True}
        assert (await self.ask(settings, headers, **given)).status_code == 401

    @pytest.mark.parametrize("origin", ["http://localhost:37878", "http://127.0.0.1:5173", "http://[::1]:80"])
    async def test_holds_for_a_page_of_this_machine(self, settings: Settings, origin: str) -> None:
        given: dict[str, Any] = {"auth_mode": AuthMode.LOCAL_DEV, "allow_local_dev_bypass": True}
        assert (await self.ask(settings, {"origin": origin}, **given)).status_code == 200

    async def test_a_key_that_is_sent_counts(self, settings: Settings) -> None:
        given: dict[str, Any] = {"auth_mode": AuthMode.LOCAL_DEV, "allow_local_dev_bypass": True}
        assert (await self.ask(settings, {"x-api-key": UNKNOWN_KEY}, **given)).status_code == 403
