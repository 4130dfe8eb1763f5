"""The real `onlooker` executable, in a home of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXECUTABLE = Path(sys.executable).parent / "onlooker"
TIMEOUT_S = 60
BOUND_BY_MODES = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
"""Root without its right to pass over modes. Another user could not read a checkout in root's home at all."""
NOBODY = 65534


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

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        bound_by_modes: bool = False,
        folder: Path | None = None,
    ) -> Ended:
        """With `bound_by_modes` the modes of files hold for it, even where root runs the tests."""
        wrapper = BOUND_BY_MODES if bound_by_modes and os.geteuid() == 0 else ()
        ran = subprocess.run(
            [*wrapper, EXECUTABLE, *arguments],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=folder,
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


def one_line(text: str) -> str:
    """The one line that a failure says on stderr."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def make_unwritable(folder: Path) -> None:
    """Make a folder that nobody who runs the tests may write, unless modes do not hold for them."""
    folder.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    else:
        folder.chmod(0o555)
