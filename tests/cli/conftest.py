"""The real `onlooker` executable, in a home of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

EXECUTABLE = Path(sys.executable).parent / "onlooker"
TIMEOUT_S = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass
class Cli:
    """Runs `onlooker` in one home, away from the settings of whoever runs the tests."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ONLOOKER_")}
        return {**kept, "ONLOOKER_HOME": str(self.home), "ONLOOKER_PORT": "0", **self.extra}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, user: int | None = None) -> Ended:
        ran = subprocess.run(
            [EXECUTABLE, *arguments],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            user=user,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
        )
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    def succeed(self, *arguments: str) -> str:
        ended = self.run(*arguments)
        assert ended.code == 0, ended.err
        return ended.out

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [EXECUTABLE, *arguments],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def runtime(self, role: str = "server") -> dict[str, Any]:
        told = json.loads((self.home / f".{role}.runtime.json").read_text())
        assert isinstance(told, dict)
        return told


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """What a test leaves in the background is ended afterwards, by the pid that it wrote itself."""
    runner = Cli(tmp_path / "home")
    yield runner
    for role in ("worker", "server"):
        stopped = runner.run(role, "stop")
        if stopped.code:
            os.kill(runner.runtime(role)["pid"], signal.SIGKILL)
            pytest.fail(f"the {role} did not stop: {stopped.err}")


def one_line(text: str) -> str:
    """The one line that a failure says on stderr."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]
