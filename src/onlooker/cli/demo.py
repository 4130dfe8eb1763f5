"""`onlooker demo`: a recorded coding session, played to a server of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

import onlooker
from onlooker.cli import daemon
from onlooker.cli.state import StateFiles
from onlooker.domain.errors import Misconfigured, Unavailable
from onlooker.hooks import client

if TYPE_CHECKING:
    from rich.console import Console

AGENT = "claude-code"
RECORDING = "hooks.jsonl"
QUESTIONS = ("why Decimal and not float", "half a cent lost in rounding", "--since compares text")
PROMPT = "UserPromptSubmit"
PRIVATE_WORD = "9042-EXAMPLE"
"""Stands in a `<private>` block of the first prompt."""

HITS = 3
PAGE = 200
TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Api:
    """The server, as any program would ask it."""

    url: str
    key: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. Raises `Unavailable` for any other than 200."""
        address = urlsplit(self.url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        try:
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise Unavailable(f"the server answered {answer.status} to {method} {path}: {content[:200]!r}")
        return json.loads(content)

    def count_jobs(self, *statuses: str) -> int:
        """Jobs in these states, or in all."""
        totals = [self.ask("GET", f"/v1/jobs?limit=1&status={status}")["total"] for status in statuses]
        return sum(totals) if statuses else int(self.ask("GET", "/v1/jobs?limit=1")["total"])


@click.command(epilog="Example: onlooker demo")
def demo() -> None:
    """Watch a recorded coding session turn into observations. Needs nothing, and leaves nothing behind."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 110)
    payloads = _recording()
    console.print(
        "[bold]Onlooker watches coding agents work and remembers what they saw,[/bold] so that the next session "
        "need not find it out again.\nThis plays a recorded session of Claude Code to a server of its own: somebody "
        "has a cent missing in their accounts, and an agent reads, edits, runs tests and decides.\n"
    )
    with tempfile.TemporaryDirectory(prefix="onlooker-demo-") as folder:
        home = Path(folder)
        with _server(home) as api:
            console.print(f"[bold]1.[/bold] A server is up at {api.url}, with a temporary home and SQLite.\n")
            prompts = _play(console, home, api, payloads)
            _show_observations(console, api, prompts)
            _show_answers(console, api)
            _show_secret_is_gone(console, home)
    console.print(
        "\n[bold]To start for real:[/bold]\n"
        "  onlooker serve                                    the server, in the foreground\n"
        "  onlooker import transcript ~/.claude/projects     what your agents did before\n"
        "  onlooker search WORDS                             what was learned\n"
        "docs/getting-started.md shows how to connect an agent. This demo's server is stopped and its data is gone."
    )


def _recording() -> list[bytes]:
    """What the hooks of the recorded session got on stdin, one a payload."""
    in_repository = Path(onlooker.__file__).parents[2] / "examples" / "recorded" / RECORDING
    packaged = files(onlooker) / "_demo" / RECORDING
    for place in (in_repository, packaged):
        if place.is_file():
            return place.read_bytes().splitlines()
    raise Misconfigured([f"the recorded session is missing: {packaged}; install Onlooker again"])


@contextmanager
def _server(home: Path) -> Iterator[Api]:
    """A server with everything at its default but the home and the port."""
    state = StateFiles(home, "server")
    runtime, _ = daemon.start(state, ["serve", "--port", "0"], env=_environment(home))
    try:
        yield Api(runtime.url or "", (home / "key").read_text().strip())
    finally:
        daemon.stop(state)


def _environment(home: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ONLOOKER_")}
    return {**mine, "ONLOOKER_HOME": str(home)}


def _play(console: "Console", home: Path, api: Api, payloads: Sequence[bytes]) -> dict[int, str]:
    """Run the hook client for each payload, as the agent did; when each prompt was sent, in epoch milliseconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console.print("[bold]2.[/bold] The agent works, and its hooks tell the server; a worker observes meanwhile.")
    prompts: dict[int, str] = {}
    columns = (TextColumn("   {task.description:22}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        sent = progress.add_task("hooks sent", total=len(payloads))
        observed = progress.add_task("events observed", total=None)
        for payload in payloads:
            told = json.loads(payload)
            if told["hook_event_name"] == PROMPT:
                prompts[time.time_ns() // 1_000_000] = told["prompt"]
            subprocess.run(
                [sys.executable, "-IS", client.__file__, AGENT], input=payload, env=_environment(home), check=True
            )
            progress.update(sent, advance=1)
            progress.update(observed, total=api.count_jobs(), completed=api.count_jobs("completed"))
        give_up_at = time.monotonic() + TIMEOUT_S
        while api.count_jobs("queued", "processing"):
            if time.monotonic() >= give_up_at:
                raise Unavailable("the events were not observed in time: onlooker doctor may say why")
            progress.update(observed, total=api.count_jobs(), completed=api.count_jobs("completed"))
            time.sleep(LOOK_EVERY_S)
        progress.update(observed, total=api.count_jobs(), completed=api.count_jobs("completed"))
    return prompts


def _show_observations(console: "Console", api: Api, prompts: Mapping[int, str]) -> None:
    """Everything that was observed, under the prompt that it came of."""
    found = _observations(api)
    console.print(f"\n[bold]3.[/bold] What was observed: {len(found)} notes, under what the person asked for.")
    starts = [*prompts, None]
    for (since, prompt), until in zip(prompts.items(), starts[1:], strict=True):
        console.print(f"\n   [bold cyan]“{_without_private(prompt)}”[/bold cyan]")
        _show_notes(
            console,
            [
                note
                for note in found
                if note["occurredAtEpoch"] >= since and (not until or note["occurredAtEpoch"] < until)
            ],
        )


def _observations(api: Api) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for offset in range(0, api.count_jobs(), PAGE):
        for job in api.ask("GET", f"/v1/jobs?limit={PAGE}&offset={offset}")["jobs"]:
            if job["sourceType"] == "agent_event":
                notes = api.ask("GET", f"/v1/events/{job['sourceId']}/observations")["observations"]
                found |= {note["id"]: note for note in notes}
    return sorted(found.values(), key=lambda note: (note["occurredAtEpoch"], note["generationKey"]))


def _show_notes(console: "Console", notes: Sequence[Mapping[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for width, style in ((3, ""), (8, "dim"), (9, "green")):
        table.add_column(width=width, style=style, no_wrap=True)
    table.add_column(ratio=3, overflow="fold")
    table.add_column(ratio=1, style="dim", overflow="fold")
    for note in notes:
        at = time.strftime("%H:%M:%S", time.localtime(note["occurredAtEpoch"] / 1000))
        about = note["metadata"]
        names = dict.fromkeys(Path(file).name for file in (*about["files_modified"], *about["files_read"]))
        table.add_row("", at, note["kind"], escape(about["title"]), escape(", ".join(names)))
    console.print(table)


def _show_answers(console: "Console", api: Api) -> None:
    """What a later session would ask, and what it gets."""
    from rich.markup import escape

    console.print("\n[bold]4.[/bold] A later session asks, and need not read, run and guess it all again.")
    project_id = api.ask("GET", "/v1/jobs?limit=1")["jobs"][0]["projectId"]
    for question in QUESTIONS:
        console.print(f'\n   [bold cyan]onlooker search "{escape(question)}"[/bold cyan]')
        asked = {"projectId": project_id, "query": question, "limit": HITS}
        _show_notes(console, api.ask("POST", "/v1/search", asked)["observations"])


def _show_secret_is_gone(console: "Console", home: Path) -> None:
    stored = [path for path in home.iterdir() if path.name.startswith("onlooker.db")]
    if any(PRIVATE_WORD.encode() in path.read_bytes() for path in stored):
        raise Unavailable("what stood in <private> was stored: please report this defect")
    console.print(
        "\n[bold]5.[/bold] The first prompt held a login in a <private> block. "
        f"It was sent, and is in none of the {len(stored)} database files."
    )


def _without_private(prompt: str) -> str:
    head, _, rest = prompt.partition("<private>")
    return f"{head}‹private›{rest.partition('</private>')[2]}" if rest else head
