"""What is served at /openapi.json, held against what the server does when strangers make up the requests."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cli_runner import Cli
from databases import KINDS
from onlooker.http import openapi
from onlooker.http.asgi import OPERATIONS
from postgres_admin import admin_execute, with_database
from served import NOW

CALLS_AN_OPERATION = 24
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
LABELS = [f"{operation.method} {operation.path}" for operation in OPERATIONS]
YES = {"true", "1", "t", "on", "yes", "y"}


@dataclass
class Seeded:
    """A server process with something of everything in it."""

    client: httpx.Client
    key: str
    project_id: str
    purged_project_id: str
    ids: dict[str, str]

    def note(self) -> str:
        answer = self.client.post("/v1/observations", json={"projectId": self.project_id, "content": "flux"})
        return str(answer.json()["observation"]["id"])

    def place(self, case: Case[Any]) -> None:
        """Let a made-up case have a key, and name things that are there."""
        for name in [name for name in case.headers if name.lower() in {"authorization", "x-api-key"}]:
            del case.headers[name]
        for name in case.path_parameters:
            case.path_parameters[name] = self.ids[name]
        if "projectId" in case.query:
            case.query["projectId"] = self.project_id
        if case.method == "DELETE" and "observation_id" in case.path_parameters:
            case.path_parameters["observation_id"] = self.note()
        if case.path.endswith(("/memory", "/retention")):
            case.path_parameters["project_id"] = self.purged_project_id
        for body in case.body if isinstance(case.body, list) else [case.body]:
            if isinstance(body, dict) and "projectId" in body:
                body["projectId"] = self.project_id
                body.pop("serverSessionId", None)
                body.pop("observationId", None)
                if case.path == "/v1/forget":
                    body.pop("ids", None)
                    body["text"] = "nothing that is there"


@pytest.fixture(scope="module", params=KINDS)
def seeded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    cli = Cli(tmp_path_factory.mktemp("described") / "home")
    if request.param == "postgres":
        cli.extra["ONLOOKER_DATABASE_URL"] = request.getfixturevalue("module_postgres")
    process = cli.popen("serve", "--no-worker")
    try:
        wait_for(lambda: (cli.home / ".server.runtime.json").exists() and cli.runtime().get("ready"))
        key = (cli.home / "key").read_text().strip()
        with httpx.Client(
            base_url=cli.runtime()["url"], headers={"x-api-key": key}, timeout=30, trust_env=False
        ) as client:
            yield seed(cli, client, key)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def module_postgres(postgres_url: str, prepared_postgres: str) -> Iterator[str]:
    """A database for all tests of this module."""
    name = f"onlooker_described_{secrets.token_hex(8)}"
    admin_execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {prepared_postgres}")
    yield with_database(postgres_url, name)
    admin_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def wait_for(condition: Any, timeout_s: float = 20) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def seed(cli: Cli, client: httpx.Client, key: str) -> Seeded:
    project, purged = (cli.run("projects", "create", name, "--json").json() for name in ("fuzzed", "purged"))
    event = {
        "projectId": project["id"],
        "sourceType": "api",
        "eventType": "tool_use",
        "occurredAtEpoch": NOW,
        "contentSessionId": "seed",
    }
    recorded = client.post("/v1/events", json=event).json()
    ids = {
        "event_id": recorded["event"]["id"],
        "session_id": recorded["event"]["serverSessionId"],
        "job_id": recorded["generationJob"]["id"],
        "team_id": project["teamId"],
        "project_id": project["id"],
        "agent": "claude-code",
    }
    made = Seeded(client, key, project["id"], purged["id"], ids)
    ids["observation_id"] = made.note()
    return made


@pytest.mark.parametrize("label", LABELS)
def test_made_up_requests_get_documented_answers(seeded: Seeded, label: str) -> None:
    described = schemathesis.openapi.from_dict(seeded.client.get("/openapi.json").json())
    operations = [each.ok() for each in described.get_all_operations() if isinstance(each, Ok)]
    (operation,) = [each for each in operations if each.label == label]
    statuses: Counter[int] = Counter()
    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    has_input = bool(operation.path_parameters or operation.query or operation.body)

    def call(case: Case[Any], *, placed: bool) -> None:
        if placed:
            seeded.place(case)
        if str(case.query.get("wait")).lower() in YES:
            del case.query["wait"]  # nobody works here, and it would wait for that
        answer = case.call(base_url=str(seeded.client.base_url), headers={"x-api-key": seeded.key})
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    bounds = settings(
        max_examples=CALLS_AN_OPERATION,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    bounds(given(case=right, placed=st.sampled_from([True] * 7 + [False]))(call))()
    good = sum(count for status, count in statuses.items() if status < 300)
    assert good >= sum(statuses.values()) / 2, statuses
    if has_input:
        bounds(given(case=wrong, placed=st.booleans())(call))()


def test_every_operation_is_described(seeded: Seeded) -> None:
    described = seeded.client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(operation.method, operation.path) for operation in OPERATIONS}
    ids = [each["operationId"] for methods in described["paths"].values() for each in methods.values()]
    assert len(set(ids)) == len(ids)


def test_the_page_shows_every_operation_and_asks_for_nothing_else(seeded: Seeded) -> None:
    answer = seeded.client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for operation in OPERATIONS:
        assert f"<code>{operation.path}</code>" in answer.text
    assert "://" not in answer.text
    assert "<script" not in answer.text


def test_the_description_is_json_that_says_who_may() -> None:
    described = json.loads(json.dumps(openapi.describe(OPERATIONS)))
    for operation in OPERATIONS:
        told = described["paths"][operation.path][operation.method.lower()]
        assert ("security" in told) == (operation.scope is not None)
