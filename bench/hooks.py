"""What a hook costs its agent, how fast kept payloads are stored, and what kills and a full disk lose.

    python bench/hooks.py [--runs 40] [--spooled 100000] [--notes 100000] [--through-kills 10000]

A real `onlooker serve` in a home of its own; every hook a process of its own, as agents start them. Wall time and CPU
are those of the whole process, the interpreter's start included; an interpreter that does nothing is measured beside
it in the same run, since both depend on the machine.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from search import fill

from deployment import Deployment, deployment, kill
from hook_sessions import Hooks, payload, stored_uses
from onlooker.domain.models import Draft, ObservationKind, Scope
from onlooker.hooks import client
from onlooker.storage.database import Connection, open_database

SESSIONS = 8
KILLS = 10
DISK = "64m"


def measure(command: Sequence[str], body: bytes, env: dict[str, str], runs: int) -> tuple[float, float, float]:
    """Median and least wall time and median CPU of a process, in ms."""
    walls, cpus = [], []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(command, input=body, env=env, capture_output=True, check=True)
        walls.append((time.perf_counter() - began) * 1000)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
    return statistics.median(walls), min(walls), statistics.median(cpus)


def show(what: str, found: tuple[float, float, float]) -> None:
    print(f"  {what:42} wall p50 {found[0]:6.1f} ms, least {found[1]:6.1f} ms, CPU p50 {found[2]:5.1f} ms", flush=True)


def bench_hook(server: Deployment, runs: int) -> None:
    """A hook's process, with the server there and away."""
    env = {"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(server.cli.home)}
    hook = [sys.executable, "-I", "-S", client.__file__, "claude-code"]
    process = server.serve("--no-worker")
    print("One hook, as a whole process:")
    show("an interpreter that does nothing", measure([sys.executable, "-I", "-S", "-c", "pass"], b"", env, runs))
    for name, size in (("2 KB", 2_000), ("500 KB", 500_000)):
        show(f"PostToolUse of {name}, server up", measure(hook, payload(99, size, size), env, runs))
    start = json.dumps({"session_id": "s", "hook_event_name": "SessionStart", "source": "startup"}).encode()
    show("SessionStart with context, server up", measure([*hook, "--context"], start, env, runs))
    kill(process)
    for name, size in (("2 KB", 2_000), ("500 KB", 500_000)):
        show(f"PostToolUse of {name}, server down", measure(hook, payload(98, size, size), env, runs))
    server.serve("--no-worker")
    server.wait_until(lambda: next(client.waiting(str(server.cli.home)), None) is None, 60)


def varied_draft(number: int, text: str) -> Draft:
    """Of fifty notes the last sums up, five are decisions, and each changed a file."""
    kind = {49: ObservationKind.SUMMARY}.get(number % 50) or (
        ObservationKind.DECISION if number % 10 == 0 else ObservationKind.CHANGE
    )
    facts = (f"next_steps: {text[60:160]}",) if kind is ObservationKind.SUMMARY else ()
    return Draft(kind, text[:60], narrative=text, facts=facts, files_modified=(f"src/part_{number % 500}.py",))


def bench_start(server: Deployment, runs: int, notes: int) -> None:
    """A session's start, with context out of so many notes of the project."""
    for process in server.processes:
        kill(process)
    env = {"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(server.cli.home), "ONLOOKER_PROJECT": "noted"}
    hook = [sys.executable, "-I", "-S", client.__file__, "claude-code", "--context"]
    start = json.dumps({"session_id": "noted", "hook_event_name": "SessionStart", "source": "startup"}).encode()
    process = server.serve("--no-worker")
    subprocess.run(hook, input=start, env=env, capture_output=True, check=True)

    def find(conn: Connection) -> Scope | None:
        row = conn.exec_driver_sql("SELECT team_id, id FROM projects WHERE name = 'noted'").first()
        return None if row is None else Scope(row[0], row[1])

    server.wait_until(lambda: server.read(find) is not None, 60)
    kill(process)

    async def fill_project() -> None:
        async with open_database(f"sqlite:///{server.cli.home}/onlooker.db") as database:
            scope = await database.read(find)
            assert scope is not None
            await fill(database, scope, notes, varied_draft)

    asyncio.run(fill_project())
    process = server.serve("--no-worker")
    answered = subprocess.run(hook, input=start, env=env, capture_output=True, check=True).stdout
    cpu = cpu_s(process.pid)
    show(f"SessionStart at {notes} notes, {len(answered)} bytes told", measure(hook, start, env, runs))
    print(f"  {'':42} the server's CPU {(cpu_s(process.pid) - cpu) / runs * 1000:.1f} ms each")


def bench_replay(server: Deployment, number: int) -> None:
    """Payloads that wait when a server starts."""
    for process in server.processes:
        kill(process)
    at = time.time_ns()
    head = f"x-onlooker-at: {at // 1_000_000}\r\nx-onlooker-project: tally\r\nx-onlooker-place: git:x/tally\r\n"
    for n in range(number):
        client.keep(str(server.cli.home), at + n, "claude-code", head, payload(100 + n % 200, n))
    dropped = (server.cli.home / "spool" / "dropped").stat().st_size
    process = server.serve("--no-worker")
    began, cpu = time.monotonic(), cpu_s(process.pid)
    server.wait_until(lambda: next(client.waiting(str(server.cli.home)), None) is None, 600)
    took, used = time.monotonic() - began, cpu_s(process.pid) - cpu
    rate = (number - dropped) / took
    print(f"Replay of {number - dropped} kept payloads: {rate:.0f}/s, {used / number * 1e3:.3f} ms CPU each")


def bench_kills(number: int) -> None:
    """Hooks while the server is killed ten times and its disk is full once. Needs root, for a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "onlooker-bench", disk], check=True)
        try:
            with deployment(disk) as server:
                run_through_kills(server, disk, number)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)


def run_through_kills(server: Deployment, disk: Path, number: int) -> None:
    hooks = Hooks(server.cli.home)
    each = number // SESSIONS
    process = server.serve("--no-worker")

    def kill_and_start() -> None:
        nonlocal process
        for round_ in range(KILLS):
            wait_for(hooks, each * SESSIONS * (round_ + 1) // (KILLS + 2))
            kill(process)
            if round_ == KILLS // 2:
                fill_disk(disk / "ballast")
                wait_for(hooks, len(hooks.done) + each * SESSIONS // 100)
                (disk / "ballast").unlink()
            process = server.serve("--no-worker")

    began = time.monotonic()
    hooks.run_sessions(SESSIONS, range(each), kill_and_start)
    server.wait_until(lambda: hooks.waiting() == 0, 120)
    stored = stored_uses(server)
    lost = sum(each - len(set(stored.get(session, []))) for session in range(SESSIONS))
    doubled = sum(len(numbers) - len(set(numbers)) for numbers in stored.values())
    in_order = all(numbers == sorted(numbers) for numbers in stored.values())
    dropped = (
        sum(
            json.loads(line)["dropped"] for line in (server.cli.home / "spool" / "drops.jsonl").read_text().splitlines()
        )
        if (server.cli.home / "spool" / "drops.jsonl").exists()
        else 0
    )
    dropped += (server.cli.home / "spool" / "dropped").stat().st_size
    print(
        f"{each * SESSIONS} hooks in {time.monotonic() - began:.0f} s, {KILLS} kills, the disk full once: "
        f"{lost} not stored, {dropped} counted as dropped, {doubled} doubled, order {'kept' if in_order else 'LOST'}, "
        f"{len(hooks.failed)} noticed by the agent"
    )


def wait_for(hooks: Hooks, number: int) -> None:
    """Until so many hooks have run: kills are spread over them, however fast the machine is."""
    while len(hooks.done) < number:
        time.sleep(0.02)


def fill_disk(path: Path) -> None:
    with path.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            return


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--spooled", type=int, default=20_000, help="0 leaves it out")
    parser.add_argument("--notes", type=int, default=0, help="of the project that a session starts in; 0 leaves it out")
    parser.add_argument("--through-kills", type=int, default=0, metavar="HOOKS")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, deployment(Path(folder)) as server:
        if asked.runs:
            bench_hook(server, asked.runs)
        if asked.notes:
            bench_start(server, asked.runs or 20, asked.notes)
        if asked.spooled:
            bench_replay(server, asked.spooled)
    if asked.through_kills:
        bench_kills(asked.through_kills)


if __name__ == "__main__":
    main()
