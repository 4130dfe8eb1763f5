"""Commands of the session: run for real, with output that is equal on every machine."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

PROJECT = "/home/dev/tally"
"""Where the session says it works; the real folder is a temporary one."""

COMMAND_TIMEOUT_S = 60

# Line numbers inside the interpreter differ between its releases; these are those of Python 3.11.
RUNPY_LINES = {"_run_module_as_main": 198, "_run_code": 88}


@dataclass(frozen=True)
class Finished:
    exit_code: int
    stdout: str
    stderr: str


class Shell:
    """A POSIX shell in the project's folder, with a home, a `python3` and a git that owe nothing to the machine's."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root.resolve()
        self.home = home.resolve()
        tools = self.home / "bin"
        tools.mkdir(parents=True)
        python = tools / "python3"
        python.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n", encoding="utf-8")
        python.chmod(0o755)
        self.path = f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    def run(self, command: str, *, at: datetime) -> Finished:
        """The command's end; `at` is the time that git writes into commits.

        A command that takes more than a minute raises subprocess.TimeoutExpired.
        """
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.root,
            env=self._environment(at),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        return Finished(done.returncode, self._settle(done.stdout), self._settle(done.stderr))

    def _environment(self, at: datetime) -> dict[str, str]:
        commit_date = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "PATH": self.path,
            "HOME": str(self.home),
            "LC_ALL": "C",
            "TERM": "dumb",
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "PYTHONUTF8": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNODEBUGRANGES": "1",  # releases differ in what they underline in tracebacks
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PAGER": "cat",
            "GIT_AUTHOR_NAME": "Dev",
            "GIT_AUTHOR_EMAIL": "dev@example.org",
            "GIT_AUTHOR_DATE": commit_date,
            "GIT_COMMITTER_NAME": "Dev",
            "GIT_COMMITTER_EMAIL": "dev@example.org",
            "GIT_COMMITTER_DATE": commit_date,
        }

    def _settle(self, output: bytes) -> str:
        """The output as it would be in the project's own place, with no trace of time, folder or Python release.

        Python's suggestions are left out too: each release has its own.
        """
        text = output.decode("utf-8", errors="replace").replace(str(self.root), PROJECT)
        text = re.sub(r"(Ran \d+ tests? in) [\d.]+s", r"\1 0.004s", text)
        text = re.sub(r"\. Did you mean: '\w+'\?", "", text)
        text = re.sub(r'(<frozen runpy>", line )\d+, in (\w+)', _runpy_frame, text)
        return text.rstrip("\n")


def _runpy_frame(match: re.Match[str]) -> str:
    return f"{match[1]}{RUNPY_LINES[match[2]]}, in {match[2]}"
