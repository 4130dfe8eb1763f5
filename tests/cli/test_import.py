"""Importing transcripts: whole folders, again, cut off, and of any size."""

import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli_runner import EXECUTABLE, Cli, one_line
from onlooker.cli.watch import pause_after, states_of
from transcripts_made import turn_lines, write_transcript
from waiting import wait_until

EVENTS_OF_A_TURN = 3
RECORDED = Path(__file__).parents[2] / "examples" / "recorded"
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def imported(cli: Cli, *arguments: object) -> dict[str, Any]:
    told = cli.run("import", "transcript", "--json", *map(str, arguments)).json()
    assert isinstance(told, dict)
    return told


def count(cli: Cli, rows: str) -> int:
    with closing(sqlite3.connect(cli.home / "onlooker.db")) as database:
        [(number,)] = database.execute(f"SELECT count(*) FROM {rows}")  # noqa: S608 - written in this file
    return int(number)


def count_jobs(cli: Cli, condition: str = "true") -> int:
    return count(cli, f"observation_generation_jobs WHERE {condition}")


def count_events(cli: Cli) -> int:
    return count(cli, "agent_events")


def has_more_events(cli: Cli, than: int) -> bool:
    return count_events(cli) > than


async def test_a_folder_of_ten_thousand_lines_is_imported_and_its_observations_are_found(
    cli: Cli, tmp_path: Path
) -> None:
    sessions = [f"s{number}" for number in range(5)]
    for name in sessions:
        write_transcript(tmp_path / "projects" / name / f"{name}.jsonl", 40, session=name, uses=24)
    assert sum(path.read_text().count("\n") for path in tmp_path.rglob("*.jsonl")) == 10_000

    first = imported(cli, tmp_path / "projects")
    assert (first["files"], first["stored"], first["known"]) == (5, 5 * 40 * 26, 0)
    jobs = count_jobs(cli)

    again = imported(cli, tmp_path / "projects")
    assert (again["stored"], again["bytesRead"]) == (0, 0)
    assert count_jobs(cli) == jobs

    cli.succeed("worker", "start")
    await wait_until(lambda: count_jobs(cli, "status = 'completed'") == jobs, timeout_s=60)
    found = cli.run("search", "--json", "test_part31_7.py").json()["observations"]
    assert "test_part31_7" in found[0]["content"]


async def test_a_transcript_is_followed_while_it_is_written(cli: Cli, tmp_path: Path) -> None:
    """Half a line waits for its other half and is stored once; a bad line is passed over."""
    cli.succeed("projects", "list")
    path = tmp_path / "one.jsonl"
    process = cli.popen("watch", str(tmp_path))
    try:
        lines = "".join(turn_lines(0))
        path.write_text(lines + '{"type":"user","uuid":"u9","message":{"role":"user","content":"spl')
        await wait_until(lambda: count_events(cli) >= 2, timeout_s=30)
        with path.open("a") as file:
            file.write('it"}}\nno json\n' + "".join(turn_lines(1)))
        await wait_until(lambda: count(cli, "agent_events WHERE payload LIKE '%Test part 1%'") == 1, timeout_s=30)
        assert count(cli, "agent_events WHERE payload LIKE '%split%'") == 1
    finally:
        process.terminate()
        process.communicate(timeout=30)


async def test_watches_that_are_killed_and_look_at_the_same_file_lose_and_double_nothing(
    cli: Cli, tmp_path: Path
) -> None:
    """The file is cut anywhere when they are killed, and at last another takes its place."""
    cli.succeed("projects", "list")
    turns, pieces = 30, 5
    text = "".join(line for turn in range(turns) for line in turn_lines(turn))
    path = tmp_path / "one.jsonl"
    path.touch()
    for piece in range(pieces):
        with path.open("a") as file:
            file.write(text[len(text) * piece // pieces : len(text) * (piece + 1) // pieces])
        watches = [cli.popen("watch", str(tmp_path)) for _ in range(2)]
        before = count_events(cli)
        try:
            await wait_until(partial(has_more_events, cli, before), timeout_s=30)
        finally:
            for watch in watches:
                watch.kill()
                watch.communicate(timeout=30)
    (tmp_path / "other").write_text(text + "".join(turn_lines(turns)))
    (tmp_path / "other").replace(path)
    assert "one.jsonl" in cli.succeed("watch", str(tmp_path), "--once")
    assert count_events(cli) == (turns + 1) * EVENTS_OF_A_TURN
    assert count(cli, "(SELECT DISTINCT event_type, payload FROM agent_events)") == count_events(cli)


def test_what_was_followed_before_is_followed_on_and_older_files_are_left(cli: Cli, tmp_path: Path) -> None:
    followed, older = tmp_path / "followed.jsonl", write_transcript(tmp_path / "older.jsonl", 9, session="older")
    write_transcript(followed, 2)
    imported(cli, followed)
    write_transcript(followed, 3)
    for path in (followed, older):
        os.utime(path, (1.0, 1.0))
    assert "3 new events of followed.jsonl" in cli.succeed("watch", str(tmp_path), "--once")
    assert count_events(cli) == 3 * EVENTS_OF_A_TURN


def test_a_file_that_is_not_written_to_any_more_is_looked_at_once_more(tmp_path: Path) -> None:
    """Only then is it known that its last turn is over."""
    path = write_transcript(tmp_path / "one.jsonl", 1)
    written = path.stat().st_mtime
    looks = [states_of([path], written + after) for after in (1, 599, 601, 5_000)]
    assert [before == after for before, after in pairwise(looks)] == [True, False, True]


def test_a_watch_of_many_files_looks_less_often() -> None:
    assert [pause_after(took) for took in (0.0, 0.05, 0.2)] == [1.0, 1.0, 4.0]


def test_files_and_folders_that_go_away_while_they_are_looked_for_are_passed_over(tmp_path: Path) -> None:
    stop = threading.Event()

    def come_and_go() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            write_transcript(tmp_path / str(number % 5) / "inside" / "one.jsonl", 1)
            shutil.rmtree(tmp_path / str((number + 2) % 5), ignore_errors=True)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        looks = [states_of([tmp_path], 0.0) for _ in range(500)]
    finally:
        stop.set()
        thread.join()
    assert any(looks)


def test_a_file_that_has_grown_is_read_from_where_it_was_left(cli: Cli, tmp_path: Path) -> None:
    path = write_transcript(tmp_path / "one.jsonl", 50)
    imported(cli, path)
    with path.open("a") as file:
        for number in range(50, 60):
            file.writelines(turn_lines(number))

    grown = imported(cli, path)

    assert grown["stored"] == 10 * EVENTS_OF_A_TURN
    assert grown["bytesRead"] < path.stat().st_size / 2


def test_a_half_written_last_line_is_read_when_it_is_whole(cli: Cli, tmp_path: Path) -> None:
    whole = "".join(turn_lines(0))
    path = tmp_path / "one.jsonl"
    path.write_text(whole[:-40])
    assert imported(cli, path)["rejected"] == 0
    path.write_text(whole)
    imported(cli, path)
    assert imported(cli, path)["stored"] == 0
    other = Cli(tmp_path / "other")
    imported(other, path)
    assert count_jobs(cli) == count_jobs(other)


def test_another_file_of_the_same_name_is_read_from_its_start(cli: Cli, tmp_path: Path) -> None:
    path = write_transcript(tmp_path / "one.jsonl", 20)
    imported(cli, path)
    write_transcript(path, 20, session="session-2")
    assert imported(cli, path)["stored"] == 20 * EVENTS_OF_A_TURN


def test_the_same_session_from_another_place_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    path = write_transcript(tmp_path / "one.jsonl", 20)
    imported(cli, path)
    copied = imported(cli, shutil.copy(path, tmp_path / "two.jsonl"))
    assert (copied["stored"], copied["known"]) == (0, 20 * EVENTS_OF_A_TURN)


def test_projects_are_named_as_the_folders_that_sessions_ran_in(cli: Cli, tmp_path: Path) -> None:
    write_transcript(tmp_path / "a.jsonl", 1, cwd="/home/dev/apple", session="a")
    write_transcript(tmp_path / "b.jsonl", 1, cwd="/home/dev/pear", session="b")
    imported(cli, tmp_path)
    projects = cli.run("projects", "list", "--json").json()["projects"]
    assert {"apple", "pear"} <= {project["name"] for project in projects}


def test_a_project_that_is_named_takes_all(cli: Cli, tmp_path: Path) -> None:
    cli.succeed("projects", "create", "mine")
    imported(cli, "--project", "mine", write_transcript(tmp_path / "a.jsonl", 2))
    jobs = cli.run("jobs", "list", "--project", "mine", "--json").json()
    assert jobs["total"] == count_jobs(cli) > 0


def test_a_project_that_is_not_there_is_one_line(cli: Cli, tmp_path: Path) -> None:
    path = write_transcript(tmp_path / "a.jsonl", 1)
    ended = cli.run("import", "transcript", "--project", "none", str(path))
    assert ended.code == 1
    assert "none" in one_line(ended.err)


def test_what_is_stored_only_is_not_observed(cli: Cli, tmp_path: Path) -> None:
    told = imported(cli, "--store-only", write_transcript(tmp_path / "a.jsonl", 2))
    assert told["stored"] == 2 * EVENTS_OF_A_TURN
    assert count_jobs(cli) == 0


def test_other_files_of_a_folder_are_left_out_with_their_reason(cli: Cli, tmp_path: Path) -> None:
    write_transcript(tmp_path / "good.jsonl", 1)
    (tmp_path / "gemini.jsonl").write_text('{"sessionId": "s", "projectHash": "x", "messages": []}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "notes.txt").write_text("{}")

    told = imported(cli, tmp_path)

    assert told["stored"] == EVENTS_OF_A_TURN
    assert [Path(each["path"]).name for each in told["refused"]] == ["gemini.jsonl"]


def test_lines_that_are_no_events_are_counted_by_their_kind(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text('{"type": "of-tomorrow"}\n' * 3 + '{"type": "summary", "summary": "x"}\n')
    told = cli.succeed("import", "transcript", str(path))
    assert "4 parts are no events: 3 type:of-tomorrow, 1 type:summary." in told


def test_a_rollout_that_names_no_session_is_left_out_and_the_reason_is_said(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go on"}]}
    path.write_text(json.dumps({"timestamp": "2026-03-01T10:00:01Z", "type": "response_item", "payload": said}) + "\n")
    ended = cli.run("import", "transcript", str(path))
    assert ended.code == 1
    assert "does not begin with its session_meta" in ended.out


def test_a_file_alone_that_is_no_transcript_fails(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "gemini.jsonl"
    path.write_text('{"sessionId": "s", "projectHash": "x", "messages": []}\n')
    ended = cli.run("import", "transcript", str(path))
    assert ended.code == 1
    assert str(path) in ended.out


async def test_an_import_that_is_killed_goes_on_and_loses_and_doubles_nothing(cli: Cli, tmp_path: Path) -> None:
    turns = 5000
    path = write_transcript(tmp_path / "long.jsonl", turns, padding=200)
    cli.succeed("projects", "list")
    process = subprocess.Popen([EXECUTABLE, "import", "transcript", str(path)], env=cli.env, stdout=subprocess.DEVNULL)
    await wait_until(lambda: count_jobs(cli) > 0, timeout_s=30)
    process.kill()
    process.wait()
    assert count_jobs(cli) < turns * EVENTS_OF_A_TURN

    told = imported(cli, path)

    assert 0 < told["stored"] < turns * EVENTS_OF_A_TURN
    assert count_events(cli) == turns * EVENTS_OF_A_TURN


@pytest.mark.timeout(180)
def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    peaks_kib = []
    for turns in (2_000, 10_000):
        path = write_transcript(tmp_path / f"{turns}.jsonl", turns, padding=4_000)
        command = [str(EXECUTABLE), "import", "transcript", "--store-only", str(path)]
        env = Cli(tmp_path / f"home-{turns}").env
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *command], env=env, capture_output=True, text=True, check=True
        )
        peaks_kib.append(int(measured.stdout))
    short, long = peaks_kib
    assert long - short < 15 * 1024, f"{short} KiB for 10 MB, {long} KiB for 50 MB"


def test_the_recorded_session_is_the_same_from_its_hooks_and_from_its_transcript(cli: Cli) -> None:
    """Tool uses only: older clients give prompts and turn ends no id that both sides have."""
    cli.succeed("server", "start", "--no-worker")
    client = Path(__file__).parents[2] / "src" / "onlooker" / "hooks" / "client.py"
    payloads = (RECORDED / "hooks.jsonl").read_text().splitlines()
    uses = [each for each in payloads if json.loads(each)["hook_event_name"].startswith("PostToolUse")][:30]
    for payload in uses:
        subprocess.run(
            [sys.executable, "-IS", client, "claude-code"], input=payload, env=cli.env, text=True, check=True
        )

    told = imported(cli, RECORDED / "transcript.jsonl")

    assert told["known"] == len(uses)
