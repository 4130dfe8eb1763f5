"""What a process knows of itself and its machine: the clock, new ids, and who is alive.

Everything here asks the operating system; code that must be pure takes these as parameters.
"""

import os
import random
import secrets
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from onlooker.domain.ids import RANDOM_BITS, uuid7

ZOMBIE_STATES = ("Z", "X")


def now_ms() -> int:
    """Wall clock in epoch milliseconds. Good for showing a time; never for order or for a lease."""
    return time.time_ns() // 1_000_000


def steady_ms() -> int:
    """Milliseconds since boot, sleep included where the system counts it: a clock that nobody can set."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)) // 1_000_000


class _Ids:
    """UUIDv7s that rise within a process, whatever the clock does: things made one after the other sort that way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = (0, 0)
        # Ids are names and no secrets: a generator of this process' own costs no system call for each.
        self._random = random.Random(secrets.randbits(256))  # noqa: S311 - see above

    def __call__(self) -> str:
        with self._lock:
            ms, bits = now_ms(), self._random.getrandbits(RANDOM_BITS - 1)
            if ms <= self._last[0]:
                ms, bits = self._last[0], self._last[1] + 1 + self._random.getrandbits(32)
            self._last = ms, bits
        return uuid7(ms, bits)


new_id = _Ids()
"""A fresh UUIDv7."""


@cache
def boot_id() -> str:
    """What changes with each boot of this machine: the kernel's own id, else the boot time."""
    kernel = Path("/proc/sys/kernel/random/boot_id")
    if kernel.exists():
        return kernel.read_text().strip()
    told = subprocess.run(("sysctl", "-n", "kern.boottime"), capture_output=True, text=True, check=False, timeout=5)
    return told.stdout.strip() or "unknown"


@cache
def host_name() -> str:
    """The name of the space that this process' pid means something in: host, and pid namespace where there is one."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return socket.gethostname() + namespace.removeprefix("pid:")


def start_time(pid: int) -> str | None:
    """When the process with this pid began, in the system's own words; None when there is no such live process.

    Two processes that had the same pid one after the other differ in it. A zombie is not alive.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The command name may hold spaces and parentheses, so the fields are counted from the last one.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ZOMBIE_STATES else fields[19]
    told = subprocess.run(
        ("ps", "-o", "stat=,lstart=", "-p", str(pid)), capture_output=True, text=True, check=False, timeout=5
    )
    state, _, started = told.stdout.strip().partition(" ")
    return None if not started or state[:1] in ZOMBIE_STATES else started.strip()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process for good: no other process of this or an earlier boot has the same one."""

    host: str
    boot: str
    pid: int
    started: str

    @classmethod
    def of_this_process(cls) -> Self:
        """The identity of the process that asks."""
        pid = os.getpid()
        return cls(host_name(), boot_id(), pid, start_time(pid) or "unknown")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The identity that `str` wrote; None for anything else."""
        parts = text.split("|")
        if len(parts) != 4 or not parts[2].isdecimal():
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3])

    def __str__(self) -> str:
        return f"{self.host}|{self.boot}|{self.pid}|{self.started}"

    def is_known_dead(self) -> bool:
        """Whether this process ran on this machine and is gone. Of another machine nothing is known: False."""
        if self.host != host_name():
            return False
        return self.boot != boot_id() or start_time(self.pid) != self.started
