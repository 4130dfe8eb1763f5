"""The hook client: post what the agent tells on stdin to Onlooker, or keep it for later.

    python client.py AGENT

One file, standard library only, so that any Python can run it by its path. The agent never notices it: it prints
nothing, ends within a few seconds whatever happens, and its exit code is 0.
"""

import json
import os
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

DEFAULT_HOME = "~/.onlooker"
DEFAULT_URL = "http://127.0.0.1:37878"
TIMEOUT_S = 2.0
LARGEST_SPOOL = 64 * 1024 * 1024
"""Bytes; past it new payloads are dropped, so that a server that never comes back fills no disk."""
REFUSED_FOR_GOOD = frozenset({400, 404, 413, 422})
"""Answers that the same payload would get again."""


def main(agent: str) -> None:
    """Deliver the payload on stdin, else append it to the spool."""
    body = sys.stdin.buffer.read()
    if not body.strip():
        return
    home = Path(os.environ.get("ONLOOKER_HOME") or DEFAULT_HOME).expanduser()
    if not post(find_url(home), read_key(home), agent, body):
        spool(home, agent, body)


def find_url(home: Path) -> str:
    """Where the server is: `ONLOOKER_URL`, else what the one of this home wrote down, else the default."""
    given = os.environ.get("ONLOOKER_URL")
    if given:
        return given
    try:
        told = json.loads((home / ".server.runtime.json").read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, LookupError, TypeError):
        told = None
    return told if isinstance(told, str) else DEFAULT_URL


def read_key(home: Path) -> str:
    """The key: `ONLOOKER_KEY`, else the home's own; empty where there is none."""
    given = os.environ.get("ONLOOKER_KEY")
    if given:
        return given
    try:
        return (home / "key").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def post(url: str, key: str, agent: str, body: bytes) -> bool:
    """Whether the server has it, or refused it for good."""
    try:
        address = urlsplit(url)
        connect = HTTPSConnection if address.scheme == "https" else HTTPConnection
        connection = connect(address.hostname or "127.0.0.1", address.port, timeout=TIMEOUT_S)
        try:
            connection.request(
                "POST",
                f"{address.path.rstrip('/')}/v1/hooks/{quote(agent, safe='')}",
                body,
                {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            )
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError):
        return False
    return status < 300 or status in REFUSED_FOR_GOOD


def spool(home: Path, agent: str, body: bytes) -> None:
    """Append the payload to a file that its owner alone can read, as one line in one write."""
    folder = home / "spool"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = json.dumps({"agent": agent, "at": time.time_ns() // 1_000_000, "body": body.decode("utf-8", "replace")})
    descriptor = os.open(folder / "hooks.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.fstat(descriptor).st_size < LARGEST_SPOOL:
            os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "claude-code")
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent's work goes on
        if os.environ.get("ONLOOKER_HOOK_DEBUG"):
            print(f"onlooker hook: {error!r}", file=sys.stderr)  # noqa: T201 - asked for
    sys.exit(0)
