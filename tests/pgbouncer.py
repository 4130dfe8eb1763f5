"""A real PgBouncer before a Postgres: Debian's package, started on loopback and gone afterwards."""

import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from servers import Account, Server, ServerMissing, _guarded_folder, _running, unprivileged_account

DEBIAN_PROGRAM = Path("/usr/sbin/pgbouncer")
SERVER_CONNECTIONS = 4
"""Of Postgres, shared by all clients: fewer than they are, so that each transaction may get another one."""


class PgBouncer(Server):
    kind = "PgBouncer"
    stop_signal = signal.SIGTERM  # at once: SIGINT waits for the clients to go

    def __init__(self, folder: Path, account: Account, program: Path, postgres_url: str) -> None:
        super().__init__(folder, account)
        self._program = program
        self._config = folder / "pgbouncer.ini"
        behind = urlsplit(postgres_url)
        self._netloc = f"{behind.username}:{behind.password}@{self.host}:{self.port}"
        self._postgres = behind
        users = folder / "users.txt"
        users.write_text(f'"{behind.username}" "{behind.password}"\n')
        self._config.write_text(
            f"[databases]\n* = host={behind.hostname} port={behind.port}\n"
            f"[pgbouncer]\nlisten_addr = {self.host}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = {SERVER_CONNECTIONS}\nmax_client_conn = 500\nserver_login_retry = 1\n"
        )

    @property
    def url(self) -> str:
        """The URL of the Postgres behind it, with its own address."""
        return self._postgres._replace(netloc=self._netloc).geturl()

    def _command(self) -> Sequence[str | Path]:
        return [self._program, self._config]

    def _is_ready(self, pid: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0


@contextmanager
def pgbouncer(postgres_url: str) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode, for any database of this Postgres. Raises `ServerMissing`."""
    found = shutil.which("pgbouncer") or (DEBIAN_PROGRAM if DEBIAN_PROGRAM.exists() else None)
    if found is None:
        raise ServerMissing("PgBouncer cannot be had: install the package pgbouncer, as .ci/run does")
    account = unprivileged_account()
    with (
        _guarded_folder("pgbouncer", account) as folder,
        _running(PgBouncer(folder, account, Path(found), postgres_url)) as server,
    ):
        yield server
