import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_runner import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """What a test leaves in the background is ended afterwards, by the pid that it wrote itself."""
    runner = Cli(tmp_path / "home")
    yield runner
    for role in ("worker", "server"):
        if not (runner.home / f".{role}.runtime.json").exists():
            continue
        stopped = runner.run(role, "stop")
        if stopped.code:
            os.kill(runner.runtime(role)["pid"], signal.SIGKILL)
            pytest.fail(f"the {role} did not stop: {stopped.err}")
