"""Trying an installed hook: a made-up tool use goes in by the agent's own command and is looked for by search."""

import asyncio
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlooker.cli.agents import AGENTS, Installation, is_ours
from onlooker.domain.errors import Misconfigured
from onlooker.hooks import client

if TYPE_CHECKING:
    import httpx

    from onlooker.cli.local import LocalApp
    from onlooker.domain.models import Project
    from onlooker.settings import Settings

PROJECT = "default"
"""What is tried stands in the project that every home has, and its session is removed from it afterwards: a project of
its own would stay."""
FOUND_WITHIN_S = 20.0
LOOK_EVERY_S = 0.1
RUN_WITHIN_S = 10.0
ANSWER_WITHIN_S = 5.0
FORGOTTEN_WITHIN_S = 60.0
"""A database of SQLite is written anew for it."""
MCP_HEADERS = {"accept": "application/json, text/event-stream"}
START = "onlooker server start; if it runs already: onlooker server restart"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way: whether it worked, and what was seen."""

    name: str
    worked: bool
    found: str
    advice: str = ""


def find_command(agent: str, home: Path, folder: Path) -> list[str] | str | None:
    """The hook command in the agent's settings for the event that is tried, of this folder first; None for none."""
    for where in (Installation(home, folder), Installation(home)):
        for change in AGENTS[agent].plan(where):
            if change.before is None:
                continue
            if agent == "opencode" and change.path.suffix == ".js":
                line = next((each for each in change.before.splitlines() if each.startswith("const COMMAND = ")), "")
                words: list[str] = json.loads(line.removeprefix("const COMMAND = ") or "[]")
                return words or None
            command = next(_commands(change.before, AGENTS[agent].probe), None)
            if command is not None:
                return command
    return None


def _commands(text: str, event: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError:
        return
    groups = value.get("hooks", {}).get(event, []) if isinstance(value, dict) else []
    for group in groups if isinstance(groups, list) else []:
        entries = group.get("hooks", [group]) if isinstance(group, dict) else []
        yield from (each["command"] for each in entries if is_ours(each.get("command")))


def session_of(mark: str) -> str:
    """The session that a made-up tool use is of."""
    return f"doctor-{mark}"


def made_up(agent: str, mark: str) -> dict[str, Any]:
    """A tool use in the words of the agent."""
    command, output = f"python3 -m pytest tests/{mark}.py", "1 passed in 0.01s"
    session = session_of(mark)
    if agent == "cursor":
        event = {"hook_event_name": "afterShellExecution", "conversation_id": session}
        return {**event, "command": command, "output": output}
    if agent == "windsurf":
        info = {"command_line": command, "cwd": str(Path.cwd())}
        return {"agent_action_name": "post_run_command", "trajectory_id": session, "tool_info": info}
    if agent == "opencode":
        given = {"tool": "bash", "sessionID": session, "callID": mark, "args": {"command": command}}
        return {"hook_event_name": "tool.execute.after", "input": given, "output": {"output": output}}
    name, tool = ("AfterTool", "run_shell_command") if agent == "gemini-cli" else ("PostToolUse", "Bash")
    use = {"tool_name": tool, "tool_input": {"command": command}, "tool_response": output, "tool_use_id": mark}
    return {"hook_event_name": name, "session_id": session, **use}


async def probe(agent: str, settings: "Settings") -> list[Step]:
    """Try the agent's hook and follow what it told to a search hit; the steps, up to the first that did not work."""
    from onlooker.services.spool import count_dropped

    home = settings.home
    try:
        command = find_command(agent, home, Path.cwd())
    except Misconfigured as error:
        return [Step("installed", False, str(error), f"repair that file, then onlooker install {agent}")]
    if command is None:
        return [Step("installed", False, "no hook of ours is in its settings", f"onlooker install {agent}")]
    steps = [Step("installed", True, "its settings name our hook")]
    folder = client.find_folder()
    if client.find_place(folder, str(home)).excluded:
        advice = "run it in another folder; see onlooker exclude, .onlooker.toml and ONLOOKER_EXCLUDE"
        return [*steps, Step("hook", False, f"nothing is told of {folder}: it is excluded", advice)]
    mark = f"test_probe_{secrets.token_hex(4)}"
    dropped = count_dropped(home)
    steps.append(_run(agent, command, made_up(agent, mark)))
    if not steps[-1].worked:
        return steps
    if count_dropped(home) > dropped:
        lost = "no server took it, and it found no room in the spool: that, or its disk, is full"
        return [*steps, Step("delivered", False, lost, "onlooker server start stores what waits, which makes room")]
    delivered = _delivered(agent, home, mark)
    steps.append(delivered)
    if not delivered.worked:
        return steps
    if _names_server(home):
        return [*steps, await _follow_there(home, mark)]
    from onlooker.cli.local import open_local

    async with open_local() as local:
        return [*steps, *await _follow(local, mark)]


def _delivered(agent: str, home: Path, mark: str) -> Step:
    """Whether a server has what the hook told, or takes it now; what is kept for one that does not is removed."""
    events = home / "spool" / "events"
    waiting = [events / name for name in client.waiting(str(home))]
    kept = [path for path in waiting if mark.encode() in _content(path)]
    if not kept:
        return Step("delivered", True, "the server took it")
    url, _ = client.find_url(str(home))
    status, _ = client.post(
        url, "/v1/hooks/claude-code", client.find_key(str(home)), "", b"{}", within_s=ANSWER_WITHIN_S
    )
    if client.is_settled(status):
        return Step("delivered", True, f"it waits with {len(waiting) - 1} others, which the server takes now")
    for path in kept:
        path.unlink(missing_ok=True)
    is_named = _names_server(home)
    again = f"onlooker install {agent} --url {url} --key KEY" if is_named else f"onlooker install {agent}"
    if status == 0:
        advice = f"start the server there, or name another: {again}, or --local" if is_named else START
        return Step("delivered", False, f"no server answers at {url}; what hooks tell is kept until one does", advice)
    if status in (401, 403):
        return Step("delivered", False, f"the server at {url} does not take the key of the hooks ({status})", again)
    return Step("delivered", False, f"{url} answers {status}; what hooks tell is kept", "onlooker server status")


def _names_server(home: Path) -> bool:
    """Whether hooks tell another server than the home's own."""
    return bool(os.environ.get("ONLOOKER_URL") or client.read_line(str(home), "hook.url"))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a server took it since it was listed
        return b""


def _run(agent: str, command: list[str] | str, payload: Mapping[str, Any]) -> Step:
    began = time.monotonic()
    try:
        ran = subprocess.run(
            command,
            shell=isinstance(command, str),  # as the agent does, with the command from its own settings
            input=json.dumps(payload).encode(),
            capture_output=True,
            timeout=RUN_WITHIN_S,
            check=False,
            env={**os.environ, "ONLOOKER_PROJECT": PROJECT, "ONLOOKER_HOOK_DEBUG": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Step("hook", False, f"the command did not run: {error}", f"onlooker install {agent}")
    took_ms = (time.monotonic() - began) * 1000
    if ran.returncode or ran.stdout.strip():
        told = ran.stderr.decode(errors="replace").strip() or ran.stdout.decode(errors="replace").strip()
        return Step(
            "hook", False, f"exit code {ran.returncode}, and it said: {told[:300]}", f"onlooker install {agent}"
        )
    return Step("hook", True, f"ran in {took_ms:.0f} ms, silent, exit code 0")


async def _follow(local: "LocalApp", mark: str) -> list[Step]:
    """What became of it in the store, and a search for it; it is removed afterwards."""
    from onlooker.cli.local import scope_of
    from onlooker.domain.models import SearchFilter
    from onlooker.storage.forgetting import Selection

    began = time.monotonic()
    steps: list[Step] = []
    stored = None
    while time.monotonic() < began + FOUND_WITHIN_S:
        await asyncio.sleep(LOOK_EVERY_S)
        stored = stored or await _find_stored(local, mark)
        if stored is None:
            continue
        project, _ = stored
        if not steps:
            steps.append(Step("stored", True, f"as an event of the project {project.name}"))
        hits = await local.app.recall.search(scope_of(project), mark, SearchFilter(), limit=1)
        if hits:
            took_s = time.monotonic() - began
            found = f"after {took_s:.1f} s: {hits[0].observation.title} ({hits[0].observation.id})"
            steps.append(Step("found by search", True, found))
            break
    else:
        late = f"nothing within {FOUND_WITHIN_S:.0f} s"
        advice = "onlooker server status; onlooker jobs list --status failed"
        steps.append(Step("found by search" if steps else "stored", False, late, advice))
    if stored is not None:
        project, session_id = stored
        await local.app.forget.remove(scope_of(project), Selection(session_id=session_id), pause_s=0)
    return steps


async def _find_stored(local: "LocalApp", mark: str) -> "tuple[Project, str] | None":
    """The project and the session that have it: a key of hooks that is bound to a project decides where that is."""
    from onlooker.cli.local import scope_of

    for project in await local.projects(None):
        if session := await local.app.recall.find_session(scope_of(project), session_of(mark)):
            return project, session.id
    return None


async def _follow_there(home: Path, mark: str) -> Step:
    """A search for it on the server that hooks tell, with their key; it is removed there too."""
    import httpx

    url, _ = client.find_url(str(home))
    headers = {"authorization": f"Bearer {client.find_key(str(home))}", "x-onlooker-project": PROJECT, **MCP_HEADERS}
    asked = {"name": "search", "arguments": {"query": mark}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked}
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_WITHIN_S) as there:
        while time.monotonic() < began + FOUND_WITHIN_S:
            try:
                reply = await there.post("/v1/mcp", json=message)
                if reply.status_code == httpx.codes.FORBIDDEN:
                    advice = "a key with the scopes read and write: onlooker keys create --scope read,write there"
                    return Step("found by search", False, f"the key may not search: {reply.text[:200]}", advice)
                hit = _first_entry(reply.json())
                if hit is not None:
                    found = f"after {time.monotonic() - began:.1f} s: {hit['title']} ({hit['id']})"
                    if not await _forget_there(there, hit["id"]):
                        found += "; it could not be removed again"
                    return Step("found by search", True, found)
            except (httpx.HTTPError, ValueError) as error:
                return Step("found by search", False, f"{url}: {error!r}", "onlooker server status, on that machine")
            await asyncio.sleep(LOOK_EVERY_S)
    advice = "on that machine: onlooker server status; onlooker jobs list --status failed"
    return Step("found by search", False, f"nothing within {FOUND_WITHIN_S:.0f} s", advice)


async def _forget_there(there: "httpx.AsyncClient", note_id: str) -> bool:
    """Remove the session of a note from a server; False where that did not work."""
    import httpx

    try:
        note = await there.get(f"/v1/observations/{note_id}")
        note.raise_for_status()
        going = {name: note.json()[name] for name in ("projectId", "serverSessionId")}
        gone = await there.post("/v1/forget", json={**going, "dryRun": False}, timeout=FORGOTTEN_WITHIN_S)
    except httpx.HTTPError:
        return False
    return gone.is_success


def _first_entry(answer: Any) -> dict[str, Any] | None:
    """The first note that a tool's answer has; None while the project is not there yet, or has none."""
    result = answer.get("result") if isinstance(answer, dict) else None
    told = result.get("structuredContent") if isinstance(result, dict) else None
    entries = told.get("entries") if isinstance(told, dict) else None
    return entries[0] if entries else None
