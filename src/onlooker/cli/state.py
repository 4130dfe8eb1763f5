"""The files by which other processes find a background process: `.server.pid`, `.server.port`, `.server.runtime.json`.

The runtime file decides: it holds the process' identity, so that a pid that now belongs to somebody else is never
taken for ours. The other two are for scripts.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onlooker.domain.errors import Conflict
from onlooker.host import ProcessIdentity, boot_id, host_name, start_time


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a running process says of itself. `url` is None for a worker, and for a server that does not listen yet."""

    identity: ProcessIdentity
    version: str
    started_at: int
    ready: bool = False
    url: str | None = None
    port: int | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self.identity.pid

    def is_running(self) -> bool:
        """Whether that very process runs on this machine; False too where that cannot be known."""
        here = self.identity.host == host_name() and self.identity.boot == boot_id()
        return here and start_time(self.identity.pid) == self.identity.started

    def may_run(self) -> bool:
        """Whether it runs here, or may run where this machine cannot look."""
        return not self.identity.is_known_dead()

    def as_json(self) -> dict[str, Any]:
        """The content of the runtime file."""
        return {
            "identity": str(self.identity),
            "pid": self.identity.pid,
            "version": self.version,
            "startedAt": self.started_at,
            "ready": self.ready,
            "url": self.url,
            "port": self.port,
        }


@dataclass(frozen=True, slots=True)
class StateFiles:
    """The state files of one role, `server` or `worker`, in one home."""

    home: Path
    role: str

    @property
    def pid_file(self) -> Path:
        """Holds the pid and nothing else."""
        return self.home / f".{self.role}.pid"

    @property
    def port_file(self) -> Path:
        """Holds the port and nothing else; there once the server listens."""
        return self.home / f".{self.role}.port"

    @property
    def runtime_file(self) -> Path:
        """Holds what `Runtime.as_json` says."""
        return self.home / f".{self.role}.runtime.json"

    @property
    def alive_file(self) -> Path:
        """Locked by the process for as long as it lives, which those see who cannot see its pid."""
        return self.home / f".{self.role}.alive"

    @property
    def log_file(self) -> Path:
        """Where the background process' output goes."""
        return self.home / "logs" / f"{self.role}.log"

    def read(self) -> Runtime | None:
        """What the runtime file says; None when there is none, or none that can be read."""
        try:
            told = json.loads(self.runtime_file.read_text(encoding="utf-8"))
            identity = ProcessIdentity.parse(str(told["identity"]))
            if identity is None:
                return None
            return Runtime(
                identity=identity,
                version=str(told["version"]),
                started_at=int(told["startedAt"]),
                ready=bool(told["ready"]),
                url=told["url"],
                port=told["port"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def may_run(self, runtime: Runtime) -> bool:
        """Whether a process that these files name runs, or may run where nobody here can look."""
        with self._locked():
            return self._may_run(runtime)

    def _may_run(self, runtime: Runtime) -> bool:
        return runtime.may_run() and (runtime.identity.host == host_name() or self._is_held() is not False)

    def claim(self, runtime: Runtime) -> int:
        """Take this role in this home for a process; the file that it keeps open while it lives.

        Raises `Conflict` when another process that may live has the role.
        """
        with self._locked():
            there = self.read()
            if there is not None and there.identity != runtime.identity and self._may_run(there):
                where = f" at {there.url}" if there.url else ""
                raise Conflict(
                    f"a {self.role} of {self.home} already runs{where} (pid {there.pid}): "
                    f"stop it with `onlooker {self.role} stop`, or set another ONLOOKER_HOME"
                )
            self._remove()
            self._write(runtime)
            return self._hold()

    def update(self, runtime: Runtime) -> None:
        """Say more of the process that has the role."""
        with self._locked():
            self._write(runtime)

    def give_up(self, identity: ProcessIdentity) -> None:
        """Remove the files where they are this process'. A second call does nothing."""
        with self._locked():
            there = self.read()
            if there is not None and there.identity == identity:
                self._remove()

    def sweep(self) -> bool:
        """Remove the files that a dead process left; whether there were any."""
        if not self.home.is_dir():
            return False
        with self._locked():
            there = self.read()
            if there is not None and self._may_run(there):
                return False
            left = any(path.exists() for path in (self.pid_file, self.port_file, self.runtime_file))
            self._remove()
            return left

    def _write(self, runtime: Runtime) -> None:
        write_private(self.pid_file, f"{runtime.pid}\n")
        if runtime.port is not None:
            write_private(self.port_file, f"{runtime.port}\n")
        write_private(self.runtime_file, json.dumps(runtime.as_json(), indent=2) + "\n")

    def _remove(self) -> None:
        for path in (self.runtime_file, self.port_file, self.pid_file):
            path.unlink(missing_ok=True)

    def _hold(self) -> int:
        held = os.open(self.alive_file, os.O_RDWR | os.O_CREAT, 0o600)
        if sys.platform != "win32":
            import fcntl

            # Where somebody else has it nevertheless, whoever cannot see us takes us for alive a little too long.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held

    def _is_held(self) -> bool | None:
        """Whether a process lives that took this role; None where that cannot be known."""
        if sys.platform == "win32" or not self.alive_file.exists():
            return None
        import fcntl

        looked_at = os.open(self.alive_file, os.O_RDWR)
        try:
            fcntl.flock(looked_at, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(looked_at)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time looks at the files and changes them."""
        lock = os.open(self.home / f".{self.role}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(lock, msvcrt.LK_LOCK, 1)
            else:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
