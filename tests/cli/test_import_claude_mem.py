"""`onlooker import claude-mem`: what it says, what it refuses, what memory it takes."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from claude_mem_made import VERSIONS, make_database
from cli_runner import EXECUTABLE, Cli, one_line

LATEST = list(VERSIONS)[-1]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "home")


def test_it_says_what_came_and_what_was_left_out(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "claude-mem.db"
    make_database(path, LATEST)
    said = cli.succeed("import", "claude-mem", str(path))
    assert "3 observations, 1 summaries and 4 prompts of 2 sessions are new" in said
    assert "Left out: 1 pending_messages." in said
    told = cli.run("import", "claude-mem", str(path), "--json").json()
    assert (told["observations"], told["known"]) == (0, 8)
    assert "Parser fix" in cli.succeed("search", "parser")


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\x00" + b"\x00" * 100])
def test_a_file_that_is_none_is_refused_in_one_line(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "claude-mem.db"
    path.write_bytes(content)
    ended = cli.run("import", "claude-mem", str(path))
    assert ended.code == 2
    assert "claude-mem" in one_line(ended.err)


def test_a_database_cut_short_brings_what_can_be_read(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "claude-mem.db"
    make_database(path, LATEST, notes=5_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    ended = cli.run("import", "claude-mem", str(path))
    assert ended.code == 2
    one_line(ended.err)


def test_a_person_can_stop_it_and_go_on(cli: Cli, tmp_path: Path) -> None:
    notes = 6_000
    path = tmp_path / "claude-mem.db"
    make_database(path, LATEST, notes=notes)
    # Whoever runs the tests in the background of a shell has them ignore it, and what they start would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = cli.popen("import", "claude-mem", str(path))
    finally:
        signal.signal(signal.SIGINT, before)
    while stored_notes(cli) == 0:
        assert started.poll() is None
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err.strip()) == (130, "onlooker: stopped")
    stored = stored_notes(cli)
    assert stored < notes

    told = cli.run("import", "claude-mem", str(path), "--json").json()
    assert (told["observations"], told["summaries"]) == (notes - stored, 1)
    assert stored_notes(cli) == notes + 1


def stored_notes(cli: Cli) -> int:
    """How many notes the home has; 0 while it has no database yet."""
    try:
        with closing(sqlite3.connect(f"file:{cli.home}/onlooker.db?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM observations").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_memory_does_not_grow_with_the_database(cli: Cli, tmp_path: Path) -> None:
    peaks = []
    for count in (1_000, 6_000):
        path = tmp_path / f"{count}.db"
        make_database(path, LATEST, notes=count)
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, str(EXECUTABLE), str(path)],
            env=cli.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        peaks.append(int(ran.stdout))
    assert peaks[1] < peaks[0] + 12_000


PEAK = """
import resource, subprocess, sys
subprocess.run([sys.argv[1], "import", "claude-mem", sys.argv[2], "--json"], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
