"""Hooks while the server is killed and started again: nothing is lost, doubled or out of order, no agent notices."""

import time
from pathlib import Path

import pytest

from deployment import deployment, kill
from hook_sessions import Hooks, stored_uses

SESSIONS, EACH = 3, 24
KILLS = 3
UP_S, DOWN_S = 0.7, 0.4
"""How long the server is there, and away, between two kills."""


@pytest.mark.timeout(180)
def test_what_hooks_tell_through_kills_is_stored_once_and_in_order(tmp_path: Path, database_url: str | None) -> None:
    with deployment(tmp_path, database_url) as server:
        hooks = Hooks(server.cli.home)
        process = server.serve("--no-worker")

        def kill_and_start() -> None:
            nonlocal process
            for _ in range(KILLS):
                time.sleep(UP_S)
                kill(process)
                time.sleep(DOWN_S)
                process = server.serve("--no-worker")

        hooks.run_sessions(SESSIONS, range(EACH), kill_and_start)
        server.wait_until(lambda: hooks.waiting() == 0, 30)

        assert hooks.failed == []
        assert stored_uses(server) == {session: list(range(EACH)) for session in range(SESSIONS)}
        assert (hooks.home / "spool" / "dropped").stat().st_size == 0
