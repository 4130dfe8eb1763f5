"""Chaos: servers, workers, Postgres and Redis are killed, frozen, cut off, emptied and taken back while events come in.

    python tests/chaos.py [--seed 7] [--seconds 600] [--every 2.5] [--engine sql]

Three workers and two servers, each on a machine of its own as far as it knows, and clients that send each event until
it is acknowledged. Afterwards every event has its one observation, every session's in order, and nothing is left: no
job in processing, no message, no connection, no key but the declared ones. The seed decides what goes wrong, and when.
"""

import argparse
import asyncio
import heapq
import itertools
import random
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import redis

from chaos_clients import CLIENTS, Client, Sent
from chaos_plan import POSTGRES, PROCESSES, REDIS, SERVERS, WRONG_CLOCK_S, Fault, Kind, plan
from cutting_proxy import Cut, proxy_in_thread
from deployment import Deployment, deployment
from onlooker.domain.jobs import KIND_LANES
from postgres_admin import admin_execute, client_connections, with_database
from queue_stores import BullmqStore
from servers import Server, free_port, postgres_server, redis_server

DATABASE = PREFIX = "chaos"
EVERY_S = 2.5
BEGUN_WITHIN_S = 120.0
SETTLED_WITHIN_S = 180.0
STILL_FOR_S = 45.0
"""Without one job completed: shorter than any lease (60 and 90 s), so that what nobody has must be found before."""

TELL_EVERY_S = 5.0
STOPPED_WITHIN_S = 40.0
STOPPED = {0, -signal.SIGTERM}
"""How a process ends that is asked to: well, or by the signal itself where it had not begun yet."""

CLOSED_WITHIN_S = 5.0
LOST_COMMITS = 0.05
LONGEST_CALL_MS = 50

SETTINGS = {
    "ONLOOKER_JOB_LEASE_S": "5",
    "ONLOOKER_MAX_ATTEMPTS": "100",
    "ONLOOKER_STARTUP_WAIT_S": "60",
    "ONLOOKER_DATABASE_TIMEOUT_S": "3",
    "ONLOOKER_WORKER_CONCURRENCY": "16",
}
MACHINE = "import onlooker.host; onlooker.host.host_name = lambda: {!r}"
CLOCK = "import time; real = time.time_ns; time.time_ns = lambda: real() + {} * 10**9; "
CLOCK += "time.time = lambda: time.time_ns() / 10**9"


@dataclass(slots=True)
class Place:
    """A place for a process, which is started there again and again."""

    name: str
    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    is_down: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.home.parent / f"{self.name}.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def obituary(self) -> str:
        code = self.process.returncode if self.process else None
        return f"{self.name} ended by itself with {code}:\n{self.log[-4000:]}"


@dataclass(slots=True)
class Program:
    """A server program, reached by the processes through a proxy that loses connections."""

    server: Server
    port: int
    cut: Callable[[random.Random, float], None]
    lose_commits: Callable[[random.Random | None], None]

    def reached_by(self, url: str) -> str:
        """A URL of the server, as one through the proxy."""
        return url.replace(f":{self.server.port}/", f":{self.port}/")


@dataclass(slots=True)
class Chaos:
    """One run. It fails when anything was lost, doubled, out of order or left over."""

    it: Deployment
    seed: int
    seconds: float
    faults: Sequence[Fault]
    programs: dict[str, Program]
    environment: dict[str, str]
    places: dict[str, Place] = field(init=False)
    chance: random.Random = field(init=False)
    agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    began_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - a run that can be repeated, not a secret
        root = self.it.cli.home.parent
        self.places = {name: Place(name, root / name, free_port()) for name in PROCESSES}

    def run(self) -> None:
        self._start_all()
        enough, given_up = threading.Event(), threading.Event()
        urls = [self.places[name].url for name in SERVERS]
        self.began_at = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [Client(self.it, number, urls, seed=self.seed) for number in range(CLIENTS)]
            sending = [pool.submit(client.send_until, enough, given_up) for client in clients]
            try:
                self._go_through(sending)
            except BaseException:
                given_up.set()
                raise
            finally:
                enough.set()
        sent = sum((each.result() for each in sending), Sent())
        self._tell(f"all is mended; {sent.events} events are acknowledged")
        calm_at = time.monotonic()
        self._wait_until_settled()
        self._wait_for_no_messages()
        self._tell(f"settled within {time.monotonic() - calm_at:.1f} s")
        self._stop_all()
        self._check(sent)

    def _start_all(self) -> None:
        skewed = self.chance.choice(PROCESSES)
        for place in self.places.values():
            self._start(place, skew_s=WRONG_CLOCK_S if place.name == skewed else 0)
        self.it.wait_until(lambda: all(self._answers(self.places[name]) for name in SERVERS), BEGUN_WITHIN_S)

    def _start(self, place: Place, *, skew_s: int) -> None:
        role = ["serve", "--no-worker"] if place.name in SERVERS else ["worker", "run"]
        patch = "; ".join([MACHINE.format(place.name), *([CLOCK.format(skew_s)] if skew_s else [])])
        env = {
            **self.environment,
            "ONLOOKER_HOME": str(place.home),
            "ONLOOKER_PORT": str(place.port),
            "ONLOOKER_SCRIPTED_DELAY_MS": str(self.chance.randint(0, LONGEST_CALL_MS)),
        }
        place.process = self.it.spawn(*role, patch=patch, env=env, log=place.log_path)
        place.is_down = False

    @staticmethod
    def _answers(place: Place) -> bool:
        assert place.process is not None
        assert place.process.poll() is None, place.obituary
        try:
            return httpx.get(f"{place.url}/healthz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def _go_through(self, sending: Sequence["Future[Sent]"]) -> None:
        """Let everything happen at its time, and see to it that nobody ends uninvited."""
        for fault in self.faults:
            self._plan(fault.at_s, lambda fault=fault: self._do(fault))  # type: ignore[misc]  # the default binds it
        self._plan(self.seconds, lambda: None)
        while self.agenda:
            if self.agenda[0][0] <= self._elapsed_s():
                heapq.heappop(self.agenda)[2]()
            else:
                time.sleep(0.02)
            for place in self.places.values():
                assert place.is_down or place.process is None or place.process.poll() is None, place.obituary
            for each in sending:
                assert not each.done(), each.result()

    def _plan(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (at_s, next(self.numbers), action))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.began_at

    def _tell(self, what: str) -> None:
        print(f"[{self._elapsed_s():6.1f} s] {what}", flush=True)  # noqa: T201 - the journal of the run

    def _do(self, fault: Fault) -> None:
        if fault.target in self.places and self.places[fault.target].is_down:
            self._tell(f"{fault.target} still stops and is spared: {fault}")
            return
        self._tell(str(fault))
        mend = self._break_process(fault) if fault.target in self.places else self._break_program(fault)
        if mend is not None:
            self._plan(self._elapsed_s() + fault.lasts_s, mend)

    def _break_program(self, fault: Fault) -> Callable[[], None] | None:
        """Do it; how it is mended."""
        program = self.programs[fault.target]
        if fault.kind is Kind.CUT:
            program.cut(self.chance, fault.share)
            return None
        if fault.kind is Kind.LOSE_COMMITS:
            program.lose_commits(random.Random(self.chance.random()))  # noqa: S311 - as above
            return partial(program.lose_commits, None)
        if fault.kind is Kind.FLUSH:
            with redis.Redis.from_url(program.server.url) as client:
                client.flushall()
            return None
        if fault.kind is Kind.FREEZE:
            program.server.pause()
            return program.server.resume
        if fault.kind is Kind.REWIND:
            kept = self.it.cli.home.parent / "kept"
            program.server.copy_state(kept)
            return partial(program.server.rewind, kept)
        (program.server.kill if fault.kind is Kind.CRASH else program.server.stop)()
        return program.server.start

    def _break_process(self, fault: Fault) -> Callable[[], None]:
        """Do it; how it is mended."""
        place = self.places[fault.target]
        process = place.process
        assert process is not None
        if fault.kind is Kind.FREEZE:
            process.send_signal(signal.SIGSTOP)
            return lambda: process.send_signal(signal.SIGCONT)
        place.is_down = True
        how = signal.SIGKILL if fault.kind is Kind.KILL else signal.SIGTERM
        process.send_signal(how)
        give_up_at = time.monotonic() + STOPPED_WITHIN_S

        def start_again() -> None:
            if process.poll() is None:  # it finishes what it has begun
                assert time.monotonic() < give_up_at, f"{place.name} does not stop:\n{place.log[-4000:]}"
                self._plan(self._elapsed_s() + 0.2, start_again)
                return
            assert process.returncode in ({-how} if how is signal.SIGKILL else STOPPED), place.obituary
            self._start(place, skew_s=fault.skew_s)

        return start_again

    def _wait_until_settled(self) -> None:
        """However long a slow machine takes; a run that stands still fails."""
        completed, give_up_at = -1, 0.0
        while not {"queued", "processing"}.isdisjoint(statuses := self.it.statuses()):
            if statuses.get("completed", 0) > completed:
                completed, give_up_at = statuses.get("completed", 0), time.monotonic() + STILL_FOR_S
            assert time.monotonic() < give_up_at, f"it stands still: {statuses}"
            self._tell(f"jobs: {statuses}")
            time.sleep(TELL_EVERY_S)

    def _wait_for_no_messages(self) -> None:
        if REDIS not in self.programs:
            self.it.wait_for_no_messages(SETTLED_WITHIN_S)
            return
        url = self.programs[REDIS].server.url

        async def pending() -> int:
            async with BullmqStore(url, PREFIX).engine() as queue:
                return (await queue.depth()).pending

        self.it.wait_until(lambda: not asyncio.run(pending()), SETTLED_WITHIN_S)

    def _stop_all(self) -> None:
        """Ask all to stop; they end well and in time."""
        for place in self.places.values():
            assert place.process is not None
            place.process.terminate()
        for place in self.places.values():
            assert place.process is not None
            assert place.process.wait(STOPPED_WITHIN_S) in STOPPED, place.obituary

    def _check(self, sent: Sent) -> None:
        happened = Counter(entry.event for entry in self.it.history())
        self._tell(
            f"{sent.sessions.total()} events of {len(sent.sessions)} sessions, {len(sent.loose)} of none; "
            f"503: {sent.refused}, no answer: {sent.unanswered}; what happened to jobs: {dict(happened)}"
        )
        self.it.assert_observed(sent.sessions, loose=sent.loose, loose_jobs=sent.loose_batches)
        left = client_connections(self.programs[POSTGRES].server.url, DATABASE, closed_within_s=CLOSED_WITHIN_S)
        assert left == [], f"connections to Postgres were left open: {left}"
        if REDIS in self.programs:
            assert_nothing_left(self.programs[REDIS].server.url)
        for place in self.places.values():
            for sign in ("Traceback", "defect in a job"):
                assert sign not in place.log, f"{place.name}:\n{place.log[place.log.index(sign) - 500 :][:4000]}"


def assert_nothing_left(url: str) -> None:
    """No connection but the one that asks, and no key for good but those of the whole queue and of the kind lanes."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        others = [each for each in client.client_list() if each["name"] == "onlooker"]
        assert others == [], f"connections to Redis were left open: {others}"
        lasting = {key for key in client.scan_iter(count=1000) if client.pttl(key) == -1}
        assert lasting - declared_keys() == set()
        given, ended = client.mget(f"{PREFIX}:seq", f"{PREFIX}:ended")
        assert given == ended, "what depth tells of many lanes is wrong"


def declared_keys() -> set[str]:
    """The keys that stay when nothing is left to do."""
    whole = {f"{PREFIX}:{name}" for name in ("seq", "ended", "epoch", "kinds", "checks", "wake")}
    of_kinds = {
        f"{PREFIX}:{lane}:{name}" for lane in KIND_LANES.values() for name in ("meta", "events", "completed", "marker")
    }
    return whole | of_kinds


@contextmanager
def behind_proxy(server: Server) -> Iterator[Program]:
    with proxy_in_thread(server.host, server.port) as (proxy, loop):

        def cut(chance: random.Random, share: float) -> None:
            loop.call_soon_threadsafe(proxy.cut_open, chance, share)

        def lose_commits(chance: random.Random | None) -> None:
            def throw() -> Cut | None:
                loses = chance is not None and chance.random() < LOST_COMMITS
                return chance.choice(("before", "after")) if chance is not None and loses else None

            loop.call_soon_threadsafe(proxy.cut_sometimes, throw)

        yield Program(server, proxy.port, cut, lose_commits)


def run_chaos(folder: Path, *, seed: int, seconds: float, every_s: float = EVERY_S, engine: str = "bullmq") -> None:
    """One run in servers of its own; fails with what went wrong. The seed is printed first."""
    faults = plan(seed, seconds, every_s=every_s, with_redis=engine == "bullmq")
    told = f"seed {seed}, {engine}, {seconds:.0f} s, {len(faults)} faults, one each {every_s:.1f} s or so"
    print(told, flush=True)  # noqa: T201 - so that a failure can be repeated
    with ExitStack() as stack:
        programs = {POSTGRES: stack.enter_context(behind_proxy(stack.enter_context(postgres_server())))}
        admin_execute(programs[POSTGRES].server.url, f"CREATE DATABASE {DATABASE}")
        url = with_database(programs[POSTGRES].server.url, DATABASE)
        environment = {"ONLOOKER_DATABASE_URL": programs[POSTGRES].reached_by(url)}
        if engine == "bullmq":
            programs[REDIS] = stack.enter_context(behind_proxy(stack.enter_context(redis_server(durable=True))))
            environment |= {
                "ONLOOKER_QUEUE_ENGINE": "bullmq",
                "ONLOOKER_REDIS_URL": programs[REDIS].reached_by(programs[REDIS].server.url),
                "ONLOOKER_QUEUE_PREFIX": PREFIX,
            }
        it = stack.enter_context(deployment(folder, url, **SETTINGS))
        it.poll_s = 0.5
        Chaos(it, seed, seconds, faults, programs, environment).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument(
        "--every", type=float, default=EVERY_S, metavar="SECONDS", help="between two faults, on average"
    )
    parser.add_argument("--engine", choices=("bullmq", "sql"), default="bullmq", help="which carries the queue")
    parser.add_argument("--folder", type=Path, help="keep logs here")
    asked = parser.parse_args()
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    with tempfile.TemporaryDirectory(prefix="onlooker-chaos-") as made:
        folder = asked.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run_chaos(folder, seed=seed, seconds=asked.seconds, every_s=asked.every, engine=asked.engine)
        except AssertionError:
            again = f"--seed {seed} --seconds {asked.seconds} --every {asked.every} --engine {asked.engine}"
            print(f"failed; to repeat it: make chaos ARGS='{again}'", flush=True)  # noqa: T201 - said on a terminal
            raise


if __name__ == "__main__":
    main()
