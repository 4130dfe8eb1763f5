"""The state files: whose they are, and that nobody else is ever taken for their owner."""

import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from onlooker.cli import daemon
from onlooker.cli.state import Runtime, StateFiles
from onlooker.domain.errors import Conflict
from onlooker.host import ProcessIdentity, start_time


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    return StateFiles(tmp_path, "server")


def runtime_of(pid: int, **changed: str) -> Runtime:
    us = ProcessIdentity.of_this_process()
    identity = dataclasses.replace(us, pid=pid, started=start_time(pid) or "gone", **changed)
    return Runtime(identity, "0.1.0", 1, ready=True, url="http://127.0.0.1:1", port=1)


def test_a_claim_writes_what_scripts_read_for_the_owner_only(files: StateFiles) -> None:
    files.claim(runtime_of(os.getpid()))

    assert files.pid_file.read_text() == f"{os.getpid()}\n"
    assert files.port_file.read_text() == "1\n"
    assert files.read() == runtime_of(os.getpid())
    for path in (files.pid_file, files.port_file, files.runtime_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_role_has_one_process_at_a_time(files: StateFiles) -> None:
    files.claim(runtime_of(os.getppid()))
    with pytest.raises(Conflict):
        files.claim(runtime_of(os.getpid()))
    files.give_up(runtime_of(os.getpid()).identity)
    assert files.read() == runtime_of(os.getppid())


def test_giving_up_removes_every_file(files: StateFiles) -> None:
    files.claim(runtime_of(os.getpid()))
    files.give_up(runtime_of(os.getpid()).identity)
    assert not any(path.exists() for path in (files.pid_file, files.port_file, files.runtime_file))


def test_a_dead_process_is_followed_by_the_next(files: StateFiles) -> None:
    files.claim(runtime_of(os.getppid(), boot="an earlier one"))
    files.claim(runtime_of(os.getpid()))
    assert files.read() == runtime_of(os.getpid())


def test_a_pid_that_now_belongs_to_another_process_is_not_signalled(files: StateFiles) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        there = runtime_of(stranger.pid)
        files.claim(dataclasses.replace(there, identity=dataclasses.replace(there.identity, started="1")))

        assert daemon.stop(files) is None

        assert stranger.poll() is None
        assert not files.pid_file.exists()
        stranger.communicate(b"\n")


def test_a_process_of_another_machine_is_left_alone_and_named(files: StateFiles) -> None:
    files.claim(runtime_of(os.getpid(), host="elsewhere"))
    with pytest.raises(Conflict, match="elsewhere"):
        daemon.stop(files)
    assert files.pid_file.exists()


def test_a_process_of_another_container_that_is_gone_is_followed_by_the_next(files: StateFiles) -> None:
    held = files.claim(runtime_of(os.getpid(), host="a container"))
    with pytest.raises(Conflict):
        files.claim(runtime_of(os.getpid()))
    os.close(held)  # as when it was killed, or its machine was switched off
    files.claim(runtime_of(os.getpid()))
    assert files.read() == runtime_of(os.getpid())


def test_files_that_a_process_of_another_container_left_are_removed(files: StateFiles) -> None:
    os.close(files.claim(runtime_of(os.getpid(), host="a container")))
    assert daemon.find(files) is None
    assert not files.pid_file.exists()


def test_of_a_process_that_never_said_whether_it_lives_nothing_is_known(files: StateFiles) -> None:
    os.close(files.claim(runtime_of(os.getpid(), host="a container")))
    files.alive_file.unlink()
    with pytest.raises(Conflict):
        files.claim(runtime_of(os.getpid()))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"identity": 3}', "\x00"])
def test_files_that_say_nothing_readable_are_those_of_nobody(files: StateFiles, content: str) -> None:
    files.runtime_file.write_text(content)
    files.pid_file.write_text("1\n")

    assert files.read() is None
    assert daemon.stop(files) is None
    assert not files.pid_file.exists()
