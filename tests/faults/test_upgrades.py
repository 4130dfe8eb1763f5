"""Older and newer processes of one minor version work side by side, and many may start at once."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from cli_runner import EXECUTABLE, Cli
from deployment import deployment
from onlooker.storage import schema
from postgres_admin import admin_fetch

ROOT = Path(__file__).parent.parent.parent
EARLIER = {
    "sql": "99ab03714c65084cb7fbf7b3c34ef1e7d858ad24",
    "bullmq": "e5ffcee7abdafcd79afaeed5027afeb5b8154605",
}
"""A checkout of this minor version for each queue: one whose schema is older (0003), and the first with this queue."""

STARTERS = 8
SESSIONS, EACH = 4, 3
CREATED = 201


@pytest.fixture(params=["sql", "bullmq"])
def queue(request: pytest.FixtureRequest) -> str:
    """Each queue that a team may choose."""
    name: str = request.param
    return name


@pytest.fixture
def settings(request: pytest.FixtureRequest, queue: str) -> dict[str, str]:
    """Those of the queue."""
    if queue == "sql":
        return {}
    return {"ONLOOKER_QUEUE_ENGINE": queue, "ONLOOKER_REDIS_URL": request.getfixturevalue("redis_database")}


@pytest.fixture
def earlier(tmp_path: Path, queue: str) -> Path:
    """The sources of an earlier checkout."""
    packed = subprocess.run(
        ["git", "-c", "safe.directory=*", "archive", EARLIER[queue], "src"], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        pytest.fail(f"the history is not here ({packed.stderr.decode().strip()}): git fetch --unshallow", pytrace=False)
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as sources:
        sources.extractall(tmp_path / "earlier", filter="data")
    return tmp_path / "earlier" / "src"


def installed(url: str) -> str:
    [row] = admin_fetch(url, "SELECT version FROM schema_info")
    version: str = row["version"]
    return version


def test_newer_processes_come_while_the_older_go_on(
    tmp_path: Path, postgres_database: str, settings: dict[str, str], earlier: Path
) -> None:
    url = postgres_database
    with deployment(tmp_path / "old", url, PYTHONPATH=str(earlier), **settings) as old:
        old.wait_until_begun(old.serve("--no-worker"), old.work())
        old.post_sessions(SESSIONS, EACH)
        before = installed(url)
        with deployment(tmp_path / "new", url, **settings) as new:
            new.wait_until_begun(new.serve("--no-worker"), new.work())
            for number in range(EACH, 3 * EACH):
                taking = old if number % 2 else new
                assert taking.post([taking.event(session, number) for session in range(SESSIONS)]) == CREATED
            new.wait_until_settled()
            new.assert_observed(dict.fromkeys(range(SESSIONS), 3 * EACH))
            new.wait_for_no_messages()
    assert before < schema.SCHEMA_VERSION == installed(url)


def test_processes_that_start_at_once_on_an_empty_database_all_run(tmp_path: Path, postgres_database: str) -> None:
    homes = [Cli(tmp_path / str(number), {"ONLOOKER_DATABASE_URL": postgres_database}) for number in range(STARTERS)]
    started = [
        subprocess.Popen([EXECUTABLE, "keys", "list"], env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for home in homes
    ]
    ended = [(*process.communicate(timeout=100), process.returncode) for process in started]
    assert [code for _, _, code in ended] == [0] * STARTERS, [said.decode() for _, said, _ in ended]
    assert installed(postgres_database) == schema.SCHEMA_VERSION
    assert admin_fetch(postgres_database, "SELECT count(*) AS teams FROM teams") == [{"teams": 1}]
