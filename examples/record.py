#!/usr/bin/env python3
"""Records the example session: `python3 examples/record.py [--into FOLDER]`.

The session is performed in a temporary folder, from `start/` to the finished program: files are really
edited and commands really run. Written are `recorded/hooks.jsonl`, `recorded/transcript.jsonl` and the
finished program as `tally/`. Recording again gives the same bytes. Needs git and a POSIX shell.
"""

import argparse
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from recorder.session import Session
from recorder.shell import Shell
from recorder.tape import Tape
from recorder.workshop import Workshop
from script import cents, flags, phone, receipts, release

EXAMPLES = Path(__file__).resolve().parent
STARTED_AT = datetime(2026, 4, 2, 8, 15, tzinfo=UTC)


def record(into: Path) -> int:
    """Perform the session, write what is kept of it, and return the number of tool uses."""
    with tempfile.TemporaryDirectory(prefix="tally-") as name:
        root = Path(name) / "tally"
        shutil.copytree(EXAMPLES / "start", root, ignore=shutil.ignore_patterns("__pycache__"))
        tape = Tape(started_at=STARTED_AT)
        session = Session(tape, Workshop(Shell(root, Path(name) / "home"), EXAMPLES / "bank"))
        session.start()
        for turn in (cents, phone, flags, receipts, release):
            turn.play(session)
        session.end("tally: cent-exact totals, phone exports, --since and --json, 0.2.0")
        tape.write(into / "recorded")
        program = into / "tally"
        if program.exists():
            shutil.rmtree(program)
        shutil.copytree(root, program, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    return sum(hook["hook_event_name"] in {"PostToolUse", "PostToolUseFailure"} for hook in tape.hooks)


def main() -> None:
    options = argparse.ArgumentParser(description="Records the example session.")
    options.add_argument("--into", type=Path, default=EXAMPLES, metavar="FOLDER", help="default: where this script is")
    folder = options.parse_args().into
    print(f"{record(folder)} tool uses recorded into {folder / 'recorded'}")


if __name__ == "__main__":
    main()
