"""`onlooker demo`: a recorded coding session, played to a server of its own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

import onlooker
from onlooker.cli import daemon
from onlooker.cli.state import Runtime, StateFiles
from onlooker.domain.errors import Misconfigured, Unavailable
from onlooker.domain.models import Scope
from onlooker.hooks import client

if TYPE_CHECKING:
    from rich.console import Console

AGENT = "claude-code"
RECORDING = "hooks.jsonl"
QUESTIONS = ("why did the bank say a cent more", "is 1.204 an amount", "dataclass or NamedTuple")
PROMPT = "UserPromptSubmit"
PRIVATE_WORD = "9042-EXAMPLE"
"""Stands in a `<private>` block of the first prompt."""

HITS = 3
MOST_NOTES = 1000
MOST_FILES = 3
LONGEST_NARRATIVE = 300
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

    def scope(self) -> Scope:
        """Where the hooks' events went: the project that is named as the agent's folder."""
        [job] = self.ask("GET", "/v1/jobs?limit=1")["jobs"]
        return Scope(job["teamId"], job["projectId"])


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
        with _background(home, "server", "serve", "--port", "0", "--no-worker") as runtime:
            api = Api(runtime.url or "", (home / "key").read_text().strip())
            console.print(
                f"[bold]1.[/bold] A server is up at {api.url}. The agent works, and each of its hooks is told to it; "
                "what is told is stored at once."
            )
            prompts = _play(console, home, payloads)
            console.print(
                "\n[bold]2.[/bold] A worker observes: it takes what belongs together, in order, "
                "and writes a short note where there is something to note."
            )
            with _background(home, "worker", "worker", "run", "--background"):
                _observe(console, api)
            scope = api.scope()
            _show_observations(console, _observations(home, scope), prompts)
            _show_answers(console, api, scope)
            _show_secret_is_gone(console, home)
    command = _command()
    console.print(
        "\n[bold]To start for real:[/bold]\n"
        f"  {command} serve                                  the server, in the foreground\n"
        f"  {command} import transcript ~/.claude/projects   what your agents did before\n"
        f"  {command} search WORDS                           what was learned\n"
        "docs/getting-started.md shows how to connect an agent. This demo's server is stopped and its data is gone.",
        soft_wrap=True,
    )


def _command() -> str:
    """How the person who watches can call this command."""
    called = Path(sys.argv[0])
    if called.name != "onlooker":
        return "python -m onlooker"
    if shutil.which("onlooker") == str(called):
        return "onlooker"
    return os.path.relpath(called)


def _recording() -> list[bytes]:
    """What the hooks of the recorded session got on stdin, one a payload."""
    in_repository = Path(onlooker.__file__).parents[2] / "examples" / "recorded" / RECORDING
    packaged = files(onlooker) / "_demo" / RECORDING
    for place in (in_repository, packaged):
        if place.is_file():
            return place.read_bytes().splitlines()
    raise Misconfigured([f"the recorded session is missing: {packaged}; install Onlooker again"])


@contextmanager
def _background(home: Path, role: str, *arguments: str) -> Iterator[Runtime]:
    """A process with everything at its default but the home."""
    state = StateFiles(home, role)
    runtime, _ = daemon.start(state, arguments, env=_environment(home))
    try:
        yield runtime
    finally:
        daemon.stop(state)


def _environment(home: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ONLOOKER_")}
    return {**mine, "ONLOOKER_HOME": str(home)}


def _play(console: "Console", home: Path, payloads: Sequence[bytes]) -> dict[int, str]:
    """Run the hook client for each payload, as the agent did; when each prompt was sent, in epoch milliseconds."""
    prompts: dict[int, str] = {}
    with _bar(console, "hooks sent", len(payloads)) as advance:
        for payload in payloads:
            told = json.loads(payload)
            if told["hook_event_name"] == PROMPT:
                prompts[time.time_ns() // 1_000_000] = told["prompt"]
            subprocess.run(
                [sys.executable, "-IS", client.__file__, AGENT], input=payload, env=_environment(home), check=True
            )
            advance(1)
    return prompts


def _observe(console: "Console", api: Api) -> None:
    """Wait until every job is done."""
    give_up_at = time.monotonic() + TIMEOUT_S
    total, done = api.count_jobs(), 0
    with _bar(console, "events observed", total) as advance:
        while done < total:
            if time.monotonic() >= give_up_at:
                raise Unavailable("the events were not observed in time: onlooker doctor may say why")
            time.sleep(LOOK_EVERY_S)
            now_done = total - api.count_jobs("queued", "processing")
            advance(now_done - done)
            done = now_done


@contextmanager
def _bar(console: "Console", what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("   {task.description:16}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)


def _show_observations(console: "Console", found: Sequence[Mapping[str, Any]], prompts: Mapping[int, str]) -> None:
    """Everything that was observed, under the prompt that it came of."""
    console.print(f"\n[bold]3.[/bold] What was observed: {len(found)} notes, here under what the person had asked for.")
    from rich.markup import escape
    from rich.padding import Padding

    starts = [*prompts, None]
    for (since, prompt), until in zip(prompts.items(), starts[1:], strict=True):
        console.print(Padding(f"“{escape(_without_private(prompt))}”", (1, 0, 0, 3)), style="bold cyan")
        _show_notes(
            console,
            [
                note
                for note in found
                if note["occurredAtEpoch"] >= since and (not until or note["occurredAtEpoch"] < until)
            ],
        )


def _observations(home: Path, scope: Scope) -> list[dict[str, Any]]:
    """All of the project's notes, as they happened, in the shape of `POST /v1/search`."""
    import msgspec

    from onlooker.http.schemas import ObservationView
    from onlooker.storage.database import open_database
    from onlooker.storage.observations import recent_observations

    async def read() -> list[dict[str, Any]]:
        async with open_database(f"sqlite:///{home / 'onlooker.db'}") as database:
            notes = await database.read(lambda conn: recent_observations(conn, scope, limit=MOST_NOTES))
            return [msgspec.to_builtins(ObservationView.of(note)) for note in reversed(notes)]

    return asyncio.run(read())


def _show_notes(console: "Console", notes: Sequence[Mapping[str, Any]], *, in_full: bool = False) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, expand=True)
    for width, style in ((2, ""), (8, "dim"), (9, "green")):
        table.add_column(width=width, style=style, no_wrap=True)
    table.add_column(ratio=3, overflow="fold")
    table.add_column(ratio=1, style="dim", overflow="fold")
    for note in notes:
        at = time.strftime("%H:%M:%S", time.localtime(note["occurredAtEpoch"] / 1000))
        about = note["metadata"]
        names = list(dict.fromkeys(Path(file).name for file in (*about["files_modified"], *about["files_read"])))
        files = ", ".join(names[:MOST_FILES]) + (f" + {len(names) - MOST_FILES}" if len(names) > MOST_FILES else "")
        title = escape(about["title"])
        if in_full and about["narrative"]:
            title += f"\n[dim]{escape(shorten(about['narrative'], LONGEST_NARRATIVE, placeholder=' …'))}[/dim]"
        table.add_row("", at, note["kind"], title, escape(files))
    console.print(table)


def _show_answers(console: "Console", api: Api, scope: Scope) -> None:
    """What a later session would ask, and what it gets."""
    from rich.markup import escape

    console.print("\n[bold]4.[/bold] A later session asks, and need not read, run and guess it all again.")
    for question in QUESTIONS:
        console.print(f'\n   [bold cyan]onlooker search "{escape(question)}"[/bold cyan]')
        asked = {"projectId": scope.project_id, "query": question, "limit": HITS}
        _show_notes(console, api.ask("POST", "/v1/search", asked)["observations"], in_full=True)


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
