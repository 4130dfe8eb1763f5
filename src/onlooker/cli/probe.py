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
from onlooker.domain.errors import NotFound
from onlooker.hooks import client

if TYPE_CHECKING:
    from onlooker.cli.local import LocalApp
    from onlooker.settings import Settings

PROJECT = "onlooker-doctor"
"""What is tried stands in a project of its own, and is removed from it afterwards."""
FOUND_WITHIN_S = 20.0
LOOK_EVERY_S = 0.1
RUN_WITHIN_S = 10.0


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


def made_up(agent: str, mark: str) -> dict[str, Any]:
    """A tool use in the words of the agent."""
    command, output = f"python3 -m pytest tests/{mark}.py", "1 passed in 0.01s"
    session = f"doctor-{mark}"
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
    command = find_command(agent, settings.home, Path.cwd())
    if command is None:
        return [Step("installed", False, "no hook of ours is in its settings", f"onlooker install {agent}")]
    mark = f"test_probe_{secrets.token_hex(4)}"
    steps = [Step("installed", True, "its settings name our hook"), _run(command, made_up(agent, mark))]
    if not steps[-1].worked:
        return steps
    kept = sum(1 for _ in client.waiting(str(settings.home)))
    if kept:
        advice = "onlooker server start; if it runs: onlooker doctor"
        return [
            *steps,
            Step("delivered", False, f"it is kept, with {kept - 1} others, until a server takes it", advice),
        ]
    steps.append(Step("delivered", True, "the server took it"))
    if client.find_url(str(settings.home))[1]:
        return steps
    from onlooker.cli.local import open_local

    async with open_local() as local:
        return [*steps, *await _follow(local, mark)]


def _run(command: list[str] | str, payload: Mapping[str, Any]) -> Step:
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
        return Step("hook", False, f"the command did not run: {error}", "install it again")
    took_ms = (time.monotonic() - began) * 1000
    if ran.returncode or ran.stdout.strip():
        told = ran.stderr.decode(errors="replace").strip() or ran.stdout.decode(errors="replace").strip()
        return Step("hook", False, f"exit code {ran.returncode}, and it said: {told[:300]}", "install it again")
    return Step("hook", True, f"ran in {took_ms:.0f} ms, silent, exit code 0")


async def _follow(local: "LocalApp", mark: str) -> list[Step]:
    """What became of it in the store, and a search for it; it is removed afterwards."""
    from onlooker.cli.local import scope_of
    from onlooker.domain.models import SearchFilter

    began = time.monotonic()
    accounts, recall = local.app.accounts, local.app.recall
    steps: list[Step] = []
    project = None
    while time.monotonic() < began + FOUND_WITHIN_S:
        if project is None:
            try:
                project = await accounts.find_project(local.principal, PROJECT)
                steps.append(Step("stored", True, f"as an event of the project {PROJECT}"))
            except NotFound:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
        hits = await recall.search(scope_of(project), mark, SearchFilter(), limit=1)
        if hits:
            took_s = time.monotonic() - began
            found = f"after {took_s:.1f} s: {hits[0].observation.title} ({hits[0].observation.id})"
            steps.append(Step("found by search", True, found))
            break
        await asyncio.sleep(LOOK_EVERY_S)
    else:
        late = f"nothing within {FOUND_WITHIN_S:.0f} s"
        advice = "onlooker jobs list --status failed; onlooker server status"
        steps.append(Step("found by search" if project else "stored", False, late, advice))
    if project is not None:
        await recall.purge(local.principal, scope_of(project))
    return steps
