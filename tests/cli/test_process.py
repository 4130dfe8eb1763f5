"""Servers and workers as processes: start, stop, status, and what they leave behind."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cli_runner import EXECUTABLE, Cli, one_line
from onlooker.host import start_time
from waiting import wait_until

STATE = (".server.pid", ".server.port", ".server.runtime.json")


def get(url: str, path: str = "/healthz") -> Any:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def state_left(cli: Cli) -> list[str]:
    return [name for name in STATE if (cli.home / name).exists()]


def test_start_returns_when_it_is_healthy_and_a_second_start_says_that_it_runs(cli: Cli) -> None:
    first = json.loads(cli.succeed("server", "start", "--json"))
    assert get(first["url"])["status"] == "ok"
    assert first["started"] is True

    second = cli.run("server", "start")
    assert second.code == 0
    assert f"already runs at {first['url']}" in second.out
    assert json.loads(cli.succeed("server", "start", "--json")) == {**first, "started": False}


@pytest.mark.parametrize("command", [("serve", "--no-worker"), ("worker", "run")])
@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_when_it_is_ready(
    cli: Cli, tmp_path: Path, command: tuple[str, ...], is_abstract: bool
) -> None:
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{place}" if is_abstract else place)
        systemd.settimeout(30)
        cli.extra["NOTIFY_SOCKET"] = f"@{place}" if is_abstract else place
        with cli.popen(*command) as process:
            assert systemd.recv(100) == b"READY=1"
            if command[0] == "serve":
                assert get(cli.runtime()["url"], "/api/readiness")["status"] == "ready"
            process.terminate()


def test_the_log_of_a_server_is_named_where_there_is_one(cli: Cli) -> None:
    with cli.popen("serve") as process:
        assert process.stdout is not None
        process.stdout.readline()
        in_foreground = cli.run("server", "status")
        process.terminate()
    cli.succeed("server", "start")
    in_background = cli.run("server", "status")
    assert (in_foreground.code, in_background.code) == (0, 0)
    assert "Log:" not in in_foreground.out
    assert f"Log: {cli.home / 'logs' / 'server.log'}" in in_background.out


def test_the_state_files_name_the_process_and_the_port_for_the_owner_only(cli: Cli) -> None:
    cli.succeed("server", "start")
    runtime = cli.runtime()

    assert (cli.home / ".server.pid").read_text() == f"{runtime['pid']}\n"
    assert (cli.home / ".server.port").read_text() == f"{runtime['port']}\n"
    assert start_time(runtime["pid"]) is not None
    for name in (*STATE, "key", "logs/server.log", "onlooker.db"):
        assert stat.S_IMODE((cli.home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(cli.home.stat().st_mode) == 0o700


def test_stop_ends_it_and_leaves_no_state(cli: Cli) -> None:
    cli.succeed("server", "start")
    pid = cli.runtime()["pid"]

    assert "is stopped" in cli.succeed("server", "stop")

    assert start_time(pid) is None
    assert state_left(cli) == []
    assert "does not run" in cli.succeed("server", "stop")


def test_status_tells_by_its_exit_code(cli: Cli) -> None:
    assert cli.run("server", "status").code == 1
    cli.succeed("server", "start")
    told = json.loads(cli.succeed("server", "status", "--json"))
    assert told["running"] is True
    assert told["healthy"] is True
    cli.succeed("server", "stop")
    assert json.loads(cli.run("server", "status", "--json").out)["running"] is False


def test_restart_is_another_process(cli: Cli) -> None:
    cli.succeed("server", "start")
    before = cli.runtime()
    cli.succeed("server", "restart")
    assert cli.runtime()["identity"] != before["identity"]
    assert start_time(before["pid"]) is None


def test_a_server_that_was_killed_is_followed_by_the_next(cli: Cli) -> None:
    cli.succeed("server", "start")
    killed = cli.runtime()["pid"]
    os.kill(killed, signal.SIGKILL)

    assert "does not run" in cli.run("server", "status").out
    cli.succeed("server", "start")
    assert cli.runtime()["pid"] != killed


def test_a_pid_that_was_used_again_is_not_signalled(cli: Cli) -> None:
    cli.succeed("server", "start")
    runtime = cli.runtime()
    cli.succeed("server", "stop")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        host, boot, _, started = runtime["identity"].split("|")
        runtime |= {"identity": f"{host}|{boot}|{stranger.pid}|{started}", "pid": stranger.pid}
        (cli.home / ".server.runtime.json").write_text(json.dumps(runtime))
        (cli.home / ".server.pid").write_text(f"{stranger.pid}\n")

        assert "does not run" in cli.succeed("server", "stop")

        assert stranger.poll() is None
        assert state_left(cli) == []
        stranger.communicate(b"\n")


async def test_serve_says_in_one_line_where_it_is_and_ends_by_a_signal(cli: Cli) -> None:
    with cli.popen("serve", "--port", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = cli.runtime()["url"]
        assert url in line
        assert str(cli.home / "key") in line
        assert get(url)["status"] == "ok"

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert process.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert state_left(cli) == []


async def test_serve_refuses_a_home_that_has_a_server_and_leaves_that_one_alone(cli: Cli) -> None:
    cli.succeed("server", "start")
    before = cli.runtime()

    ended = cli.run("serve", "--port", "0")

    assert ended.code == 1
    assert before["url"] in one_line(ended.err)
    assert cli.runtime() == before
    assert get(before["url"])["status"] == "ok"


@pytest.mark.parametrize("command", [("serve",), ("server", "start")], ids=" ".join)
def test_a_port_in_use_is_one_line_that_says_what_to_do(cli: Cli, command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = cli.run(*command, "--port", port)
    assert (ended.code, ended.out) == (2, "")
    assert port in one_line(ended.err)
    assert "--port" in ended.err
    assert state_left(cli) == []


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_one_line(cli: Cli, host: str) -> None:
    ended = cli.run("serve", "--host", host)
    assert (ended.code, ended.out) == (2, "")
    assert host in one_line(ended.err)


def test_a_worker_is_independent_of_the_server(cli: Cli) -> None:
    cli.succeed("worker", "start")
    assert "already runs" in cli.succeed("worker", "start")
    cli.succeed("server", "start", "--no-worker")
    assert cli.runtime("worker")["pid"] != cli.runtime()["pid"]

    cli.succeed("server", "stop")
    assert json.loads(cli.succeed("worker", "status", "--json"))["running"] is True
    assert "is stopped" in cli.succeed("worker", "stop")
    assert cli.run("worker", "status").code == 1


async def test_several_workers_may_run_in_the_foreground(cli: Cli) -> None:
    cli.succeed("projects", "list")
    workers = [cli.popen("worker", "run") for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert "works on" in worker.stdout.readline()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        _, err = worker.communicate(timeout=20)
        assert worker.returncode == 0, err


async def test_a_log_that_is_long_is_put_aside_at_a_start(cli: Cli) -> None:
    log = cli.home / "logs" / "server.log"
    log.parent.mkdir(parents=True)
    log.write_text("old\n" * 2_000_000)
    cli.succeed("server", "start")
    assert log.stat().st_size < 100_000
    assert log.with_name("server.log.1").read_text().startswith("old\n")


async def test_two_starts_at_once_make_one_server(cli: Cli) -> None:
    starting = [cli.popen("server", "start", "--json") for _ in range(2)]
    ended = [(process.communicate(timeout=60), process.returncode) for process in starting]

    assert 0 in [code for _, code in ended], ended
    await wait_until(lambda: get(cli.runtime()["url"])["status"] == "ok")
    for (out, _), code in ended:
        assert code != 0 or json.loads(out)["pid"] == cli.runtime()["pid"]


def test_a_relative_home_is_the_same_for_the_process_in_the_background(cli: Cli, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "onlooker", "server", "start"],
        cwd=tmp_path,
        env={**cli.env, "ONLOOKER_HOME": "home"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert get(cli.runtime()["url"])["status"] == "ok"


def test_without_a_setting_the_home_is_in_the_persons_own_wherever_the_command_is_run(cli: Cli, tmp_path: Path) -> None:
    person, folder = tmp_path / "person", tmp_path / "project"
    for each in (person, folder):
        each.mkdir()
    unset = {**cli.env, "ONLOOKER_HOME": "", "HOME": str(person)}
    for command in (["projects", "list"], ["install", "claude-code"]):
        ended = subprocess.run(
            [EXECUTABLE, *command], cwd=folder, env=unset, capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == 0, ended.stderr
    assert list(folder.iterdir()) == []
    assert (person / ".onlooker/onlooker.db").exists()
    hooks = json.loads((person / ".claude/settings.json").read_text())["hooks"]
    assert hooks["Stop"][0]["hooks"][0]["command"].endswith("client.py claude-code")


def test_garbage_is_collected_once_a_start_is_over() -> None:
    begun = (
        "import gc\n"
        "from onlooker.cli import process, serving\n"
        "process._collect_nothing_yet()\n"
        "print(gc.isenabled())\n"
        "serving.collect_rarely()\n"
        "print(gc.isenabled())\n"
    )
    told = subprocess.run([sys.executable, "-c", begun], capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.split() == ["False", "True"]
