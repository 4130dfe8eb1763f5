"""Search, jobs and the doctor, over what a worker made of a transcript."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli_runner import Cli, one_line
from onlooker.hooks import client
from transcripts_made import write_transcript
from waiting import wait_until


def jobs_of(cli: Cli, *arguments: str) -> list[dict[str, Any]]:
    jobs = cli.run("jobs", "list", "--json", *arguments).json()["jobs"]
    assert isinstance(jobs, list)
    return jobs


def count(cli: Cli, condition: str) -> int:
    with closing(sqlite3.connect(cli.home / "onlooker.db")) as database:
        [(number,)] = database.execute(
            f"SELECT count(*) FROM observation_generation_jobs WHERE {condition}"  # noqa: S608 - written in this file
        )
    return int(number)


@pytest.fixture
def waiting(cli: Cli, tmp_path: Path) -> Cli:
    """A home with jobs that nobody has begun."""
    cli.succeed("import", "transcript", str(write_transcript(tmp_path / "one.jsonl", 3)))
    return cli


async def finish(cli: Cli) -> None:
    cli.succeed("worker", "start")
    await wait_until(lambda: count(cli, "status IN ('queued', 'processing')") == 0, timeout_s=30)


async def test_what_was_observed_is_found_by_words_kind_file_and_time(waiting: Cli) -> None:
    await finish(waiting)
    found = waiting.run("search", "--json", "tests/test_part1_0.py").json()["observations"]
    assert "test_part1_0" in found[0]["metadata"]["title"]
    assert len(waiting.run("search", "--json", "--limit", "1", "passed").json()["observations"]) <= 1
    kinds = waiting.run("search", "--json", "--kind", "summary", "part").json()["observations"]
    assert {note["kind"] for note in kinds} == {"summary"}
    assert waiting.run("search", "--json", "--since", "2027-01-01", "part").json() == {"observations": []}
    assert waiting.run("search", "--json", "--until", "2026-12-31", "part").json()["observations"]
    assert waiting.run("search", "--json", "--project", "default", "part").json() == {"observations": []}
    assert waiting.run("search", "--json", "--project", "made", "part").json()["observations"]
    assert "Nothing found" in waiting.succeed("search", "zzz")


@pytest.mark.parametrize("query", ['"', "a AND", "(", "*", "-x", "NEAR(", "%", "\\", "'; DROP TABLE teams; --"])
def test_no_query_fails(cli: Cli, query: str) -> None:
    assert cli.run("search", "--json", "--", query).json() == {"observations": []}


def test_jobs_are_listed_and_shown_without_what_they_are_about(waiting: Cli) -> None:
    jobs = jobs_of(waiting)
    assert {job["status"] for job in jobs} == {"queued"}
    told = waiting.run("jobs", "show", "--json", jobs[0]["id"]).json()
    assert told["id"] == jobs[0]["id"]
    assert "payloads" not in told
    assert jobs[0]["id"] in waiting.succeed("jobs", "show", jobs[0]["id"])
    assert len(jobs_of(waiting, "--limit", "2")) == 2
    assert jobs_of(waiting, "--status", "failed") == []


async def test_a_cancelled_job_is_left_out_and_a_retry_takes_it_in_again(waiting: Cli) -> None:
    job = jobs_of(waiting)[-1]["id"]
    assert waiting.run("jobs", "cancel", "--json", job).json()["jobs"][0]["alreadyCancelled"] is False
    assert waiting.run("jobs", "cancel", "--json", job).json()["jobs"][0]["alreadyCancelled"] is True
    await finish(waiting)
    assert waiting.run("jobs", "show", "--json", job).json()["status"] == "cancelled"

    assert waiting.run("jobs", "retry", "--json", job).json()["jobs"][0]["alreadyQueued"] is False
    await wait_until(lambda: count(waiting, "status = 'completed'") == len(jobs_of(waiting)), timeout_s=30)

    ended = waiting.run("jobs", "retry", job)
    assert ended.code == 1
    assert one_line(ended.err)


def test_the_doctor_of_a_new_home_has_notes_and_no_problem(cli: Cli) -> None:
    told = cli.run("doctor", "--json").json()
    assert told["ok"] is True
    assert not cli.home.exists()


def test_the_doctor_says_where_each_setting_comes_from_and_no_password(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "settings.toml").write_text('log_level = "debug"\n')
    cli.extra["ONLOOKER_DATABASE_URL"] = "postgresql://u:secret@127.0.0.1:1/x"
    ended = cli.run("doctor", "--json")
    assert ended.code == 1
    assert "secret" not in ended.out + ended.err
    told = {each["name"]: each for each in json.loads(ended.out)["settings"]}
    assert told["ONLOOKER_LOG_LEVEL"]["from"] == "settings.toml"
    assert told["ONLOOKER_DATABASE_URL"]["from"] == "environment"
    assert told["ONLOOKER_PROVIDER"]["from"] == "default"


def test_the_doctor_tries_the_way_past_a_pooler(cli: Cli, postgres_database_prepared: str) -> None:
    cli.extra["ONLOOKER_DATABASE_URL"] = postgres_database_prepared
    cli.succeed("keys", "list")
    there = cli.run("doctor", env={"ONLOOKER_DATABASE_DIRECT_URL": postgres_database_prepared})
    nowhere = cli.run("doctor", env={"ONLOOKER_DATABASE_DIRECT_URL": "postgresql://x:hidden@127.0.0.1:1/y"})
    assert (there.code, nowhere.code) == (0, 1), there.out
    assert "past its pooler" in there.out
    assert "ONLOOKER_DATABASE_DIRECT_URL: the database cannot be reached" in nowhere.out
    assert "hidden" not in nowhere.out


def test_the_doctor_says_of_the_queue_what_is_wrong_with_its_settings(cli: Cli) -> None:
    cli.succeed("keys", "list")
    ended = cli.run("doctor", env={"ONLOOKER_QUEUE_ENGINE": "bullmq", "ONLOOKER_REDIS_URL": "redis://:secret/x@one"})
    assert ended.code == 1
    assert "PROBLEM queue: ONLOOKER_REDIS_URL: " in ended.out
    assert "PROBLEM database" not in ended.out
    assert "secret" not in ended.out


def test_the_doctor_finds_jobs_without_a_worker_and_is_content_when_one_runs(waiting: Cli) -> None:
    ended = waiting.run("doctor")
    assert ended.code == 1
    assert "onlooker server start" in ended.out

    waiting.succeed("server", "start")
    told = waiting.run("doctor", "--json").json()
    levels = {check["name"]: check["level"] for check in told["checks"]}
    assert {"home", "key", "database", "queue", "jobs", "workers", "server", "provider"} <= set(levels)
    assert set(levels.values()) == {"ok"}


def test_the_doctor_finds_a_key_that_others_can_read(cli: Cli) -> None:
    cli.succeed("projects", "list")
    (cli.home / "key").chmod(0o644)
    ended = cli.run("doctor")
    assert ended.code == 1
    assert f"chmod 600 {cli.home / 'key'}" in ended.out


@pytest.mark.parametrize(
    "name, value", [("ONLOOKER_PORT", "x"), ("ONLOOKER_PROVIDER", "oracle"), ("ONLOOKER_QUEUE_ENGINE", "bullmq")]
)
def test_the_doctor_finds_a_wrong_setting(cli: Cli, name: str, value: str) -> None:
    cli.succeed("projects", "list")
    ended = cli.run("doctor", env={name: value})
    assert (ended.code, ended.err) == (1, "")
    assert name in ended.out
    assert "PROBLEM" in ended.out


def test_the_doctor_finds_a_damaged_database(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "onlooker.db").write_bytes(b"this is no database " * 1000)
    ended = cli.run("doctor")
    assert (ended.code, ended.err) == (1, "")
    assert "database" in ended.out


def test_the_doctor_counts_what_found_no_server(cli: Cli) -> None:
    for number in range(2):
        client.keep(str(cli.home), number, "claude-code", "", b"{}")
    (cli.home / "spool" / "dropped").write_bytes(b"\0" * 3)
    told = cli.succeed("doctor")
    assert "2 hook payloads found no server" in told
    assert "3 hook payloads were dropped" in told


async def test_a_reindexing_is_done_by_the_worker_and_its_progress_is_told(waiting: Cli) -> None:
    await finish(waiting)
    with closing(sqlite3.connect(waiting.home / "onlooker.db")) as database:
        total = database.execute("UPDATE observations SET analyser_version = 0").rowcount
        database.commit()
    told = waiting.run("reindex", "--wait", "--json").json()
    done = {project["project"]: project for project in told["projects"]}["made"]
    assert (done["done"], done["changed"], done["total"]) == (total, total, total)
    assert done["finishedAtEpoch"] is not None
    assert waiting.run("search", "--json", "tests/test_part1_0.py").json()["observations"]
    assert "Nothing is being reindexed" in waiting.succeed("reindex", "--status")


def test_a_reindexing_of_no_project_is_one_line(cli: Cli) -> None:
    ended = cli.run("reindex", "--project", "nowhere")
    assert ended.code == 1
    assert "nowhere" in one_line(ended.err)
