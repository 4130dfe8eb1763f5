"""What each agent needs to tell Onlooker of its work and to ask it: which files, which events, in which shape."""

import os
import shlex
import string
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onlooker.cli.settings_files import Change, change_json, change_toml, prune, read_text
from onlooker.domain.errors import Misconfigured
from onlooker.hooks import client

NAME = "onlooker"
TIMEOUT_S = 5
"""What agents are told to wait for a hook at most; ours ends long before."""

CLAUDE_EVENTS = (
    "SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop", "SubagentStop", "PreCompact",
    "SessionEnd",
)  # fmt: skip
CODEX_EVENTS = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SubagentStop", "PreCompact")
"""Those that a version of Codex does not know it passes over."""
GEMINI_EVENTS = ("SessionStart", "BeforeAgent", "AfterTool", "AfterAgent", "PreCompress", "SessionEnd")
CURSOR_EVENTS = (
    "sessionStart", "beforeSubmitPrompt", "afterShellExecution", "afterMCPExecution", "afterFileEdit",
    "afterAgentResponse", "stop", "subagentStop", "preCompact", "sessionEnd",
)  # fmt: skip
"""Not `postToolUse` beside these: it would tell of the same commands again, without an id to know them by."""
WINDSURF_EVENTS = (
    "pre_user_prompt", "post_run_command", "post_write_code", "post_read_code", "post_mcp_tool_use",
    "post_cascade_response",
)  # fmt: skip
STARTS = frozenset({"SessionStart", "sessionStart"})
PROMPTS = frozenset({"UserPromptSubmit", "BeforeAgent"})
_PLAIN = frozenset(string.ascii_letters + string.digits + "-_./:")
TOOLS = frozenset({"PostToolUse", "PostToolUseFailure", "AfterTool"})
"""Events that need a matcher to be sent for every tool."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where and how to install: for one folder or the whole user, which home, and what may be added to prompts.

    With `remove` everything of ours is taken out again.
    """

    home: Path
    folder: Path | None = None
    with_prompt_notes: bool = False
    remove: bool = False

    @property
    def user(self) -> Path:
        """The person's own folder."""
        return Path.home()

    def hook_words(self, agent: str, event: str) -> list[str]:
        """The hook command for an event, as words."""
        words = [sys.executable, "-I", "-S", str(Path(client.__file__).resolve()), agent]
        if self.home != Path(client.DEFAULT_HOME).expanduser():
            words += ["--home", str(self.home)]
        if event in STARTS or (event in PROMPTS and self.with_prompt_notes):
            words.append("--context")
        return words

    def hook(self, agent: str, event: str) -> str:
        """The hook command for an event, as a shell reads it."""
        return as_command(self.hook_words(agent, event))

    def mcp(self) -> dict[str, Any]:
        """The entry that starts `onlooker mcp`."""
        entry: dict[str, Any] = {"command": sys.executable, "args": ["-m", "onlooker", "mcp"]}
        if self.home != Path(client.DEFAULT_HOME).expanduser():
            entry["env"] = {"ONLOOKER_HOME": str(self.home)}
        return entry


def as_command(words: Iterable[str], *, windows: bool = sys.platform == "win32") -> str:
    """Words as one command line. On Windows with forward slashes and double quotes, which cmd and bash both read."""
    if not windows:
        return shlex.join(words)
    return " ".join(word if set(word) <= _PLAIN else f'"{word}"' for word in (w.replace("\\", "/") for w in words))


def is_ours(command: object) -> bool:
    """Whether a hook command is one that was installed by us, from this place or another."""
    if not isinstance(command, str):
        return False
    path = command.replace("\\", "/")
    return "onlooker/hooks/client.py" in path


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent; `plan` gives the changes to its files."""

    name: str
    title: str
    plan: Callable[[Installation], list[Change]]
    probe: str = "PostToolUse"
    """The event whose hook `onlooker doctor` tries."""
    remark: str = ""
    """What the person has to do in the agent before it runs any hook."""


def plan_claude_code(where: Installation) -> list[Change]:
    config = Path(os.environ.get("CLAUDE_CONFIG_DIR") or where.user / ".claude")
    hooks = config / "settings.json" if where.folder is None else where.folder / ".claude" / "settings.local.json"
    # Claude Code keeps the servers of a person beside the folder, those of one project under its path.
    servers = config / ".claude.json" if os.environ.get("CLAUDE_CONFIG_DIR") else where.user / ".claude.json"
    under = () if where.folder is None else ("projects", str(where.folder))
    return [
        change_json(hooks, lambda value: _nested_hooks(value, "claude-code", CLAUDE_EVENTS, where)),
        change_json(servers, lambda value: _server(value, where, *under, "mcpServers")),
    ]


def plan_codex(where: Installation) -> list[Change]:
    config = Path(os.environ.get("CODEX_HOME") or where.user / ".codex")
    hooks = (config if where.folder is None else where.folder / ".codex") / "hooks.json"
    changes = [change_json(hooks, lambda value: _nested_hooks(value, "codex", CODEX_EVENTS, where))]
    if _needs_no_server(where, config / "hooks.json"):
        return changes
    entry = where.mcp()
    table = f"mcp_servers.{NAME}"
    block = f"[{table}]\ncommand = {_toml(entry['command'])}\nargs = {_toml(entry['args'])}\n"
    if "env" in entry:
        block += f"\n[{table}.env]\nONLOOKER_HOME = {_toml(entry['env']['ONLOOKER_HOME'])}\n"
    # Codex reads servers from the person's own file only.
    return [*changes, change_toml(config / "config.toml", table, "" if where.remove else block)]


def plan_cursor(where: Installation) -> list[Change]:
    config = (where.folder or where.user) / ".cursor"

    def edit(value: dict[str, Any]) -> None:
        was_there = _flat_hooks(value, "cursor", CURSOR_EVENTS, where, {"timeout": TIMEOUT_S})
        if not where.remove:
            value.setdefault("version", 1)
        elif was_there and set(value) == {"version"}:
            value.clear()

    return [
        change_json(config / "hooks.json", edit),
        change_json(config / "mcp.json", lambda value: _server(value, where, "mcpServers")),
    ]


def plan_windsurf(where: Installation) -> list[Change]:
    config = where.user / ".codeium" / "windsurf"
    hooks = config if where.folder is None else where.folder / ".windsurf"
    quiet = {"show_output": False}

    def edit(value: dict[str, Any]) -> None:
        _flat_hooks(value, "windsurf", WINDSURF_EVENTS, where, quiet)

    changes = [change_json(hooks / "hooks.json", edit)]
    if _needs_no_server(where, config / "hooks.json"):
        return changes
    return [*changes, change_json(config / "mcp_config.json", lambda value: _server(value, where, "mcpServers"))]


def plan_gemini_cli(where: Installation) -> list[Change]:
    path = (where.folder or where.user) / ".gemini" / "settings.json"

    def edit(value: dict[str, Any]) -> None:
        _nested_hooks(value, "gemini-cli", GEMINI_EVENTS, where, timeout=TIMEOUT_S * 1000)
        _server(value, where, "mcpServers")

    return [change_json(path, edit)]


def plan_opencode(where: Installation) -> list[Change]:
    user = Path(os.environ.get("XDG_CONFIG_HOME") or where.user / ".config") / "opencode"
    config = user if where.folder is None else where.folder / ".opencode"
    plugin = config / "plugin" / f"{NAME}.js"
    settings = user / "opencode.json" if where.folder is None else where.folder / "opencode.json"
    before = read_text(plugin)
    if before is not None and not is_ours(before):
        raise Misconfigured([f"{plugin} is not ours; it is left as it is: rename it, then install again"])
    entry = where.mcp()
    server: dict[str, Any] = {"type": "local", "command": [entry["command"], *entry["args"]], "enabled": True}
    if "env" in entry:
        server["environment"] = entry["env"]
    return [
        Change(plugin, before, None if where.remove else opencode_plugin(where)),
        change_json(settings, lambda value: _put(value, where, server, "mcp")),
    ]


def opencode_plugin(where: Installation) -> str:
    """The plugin: it hands each event to the hook client, one after the other."""
    from importlib.resources import files

    text = (files("onlooker.hooks") / "opencode.js").read_text(encoding="utf-8")
    return text.replace("__COMMAND__", _toml(where.hook_words("opencode", "")))


AGENTS: Mapping[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent("claude-code", "Claude Code", plan_claude_code),
        Agent(
            "codex",
            "Codex",
            plan_codex,
            remark="Codex runs no hook before you have said that you trust it: /hooks in Codex shows them.",
        ),
        Agent("cursor", "Cursor", plan_cursor, "afterShellExecution"),
        Agent("windsurf", "Windsurf", plan_windsurf, "post_run_command"),
        Agent("gemini-cli", "Gemini CLI", plan_gemini_cli, "AfterTool"),
        Agent("opencode", "OpenCode", plan_opencode, "tool.execute.after"),
    )
}


def _nested_hooks(
    value: dict[str, Any],
    agent: str,
    events: Iterable[str],
    where: Installation,
    timeout: int = TIMEOUT_S,
) -> None:
    """Claude Code's shape: event → groups with a matcher → commands."""
    groups: dict[str, dict[str, Any]] = {}
    for event in events:
        entry = {"type": "command", "command": where.hook(agent, event), "timeout": timeout}
        groups[event] = {"matcher": "*", "hooks": [entry]} if event in TOOLS else {"hooks": [entry]}
    _hooks(value, where, groups)


def _flat_hooks(
    value: dict[str, Any],
    agent: str,
    events: Iterable[str],
    where: Installation,
    more: Mapping[str, Any],
) -> bool:
    """Cursor's and Windsurf's shape: event → commands. Whether anything of ours was there."""
    return _hooks(value, where, {event: {"command": where.hook(agent, event), **more} for event in events})


def _hooks(value: dict[str, Any], where: Installation, entries: Mapping[str, dict[str, Any]]) -> bool:
    """Put our entries in the place of those that are there; whether there were any. Whatever is not ours stays."""
    given = value.get("hooks", {})
    was_there = isinstance(given, dict) and _take_out(given)
    if where.remove:
        if was_there:
            prune(value, "hooks")
        return was_there
    hooks = _object_in(value, "hooks")
    for event, entry in entries.items():
        others = hooks.setdefault(event, [])
        if not isinstance(others, list):
            raise Misconfigured(
                [f"the settings have something else than a list under {event!r}; they are left as they are"]
            )
        others.append(entry)
    return was_there


def _take_out(hooks: dict[str, Any]) -> bool:
    """Take our commands out, with the groups and events that this leaves empty; whether there were any."""
    found = False
    for event, entries in list(hooks.items()):
        if not isinstance(entries, list):
            continue
        rest = [left for left in map(_without_ours, entries) if left is not None]
        if rest != entries:
            found = True
            hooks[event] = rest
            if not rest:
                del hooks[event]
    return found


def _without_ours(entry: Any) -> Any:
    """A command or a group of them without what is ours; None where nothing else is in it."""
    if _is_our_entry(entry):
        return None
    commands = entry.get("hooks") if isinstance(entry, dict) else None
    if not isinstance(commands, list) or not any(_is_our_entry(each) for each in commands):
        return entry
    rest = [each for each in commands if not _is_our_entry(each)]
    return {**entry, "hooks": rest} if rest else None


def _is_our_entry(entry: object) -> bool:
    return isinstance(entry, dict) and is_ours(entry.get("command"))


def _needs_no_server(where: Installation, hooks: Path) -> bool:
    """Whether the one entry of the server is also that of the person's own `hooks`, while it leaves a folder."""
    return where.remove and where.folder is not None and is_ours(read_text(hooks))


def _server(value: dict[str, Any], where: Installation, *names: str) -> None:
    _put(value, where, where.mcp(), *names)


def _put(value: dict[str, Any], where: Installation, entry: dict[str, Any], *names: str) -> None:
    """Put our server under these names, or take it out of there, and what it leaves empty with it."""
    if where.remove:
        holder: Any = value
        for name in names:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and holder.pop(NAME, None) is not None:
            prune(value, *names)
        return
    inner = value
    for name in names:
        inner = _object_in(inner, name)
    inner[NAME] = entry


def _object_in(value: dict[str, Any], name: str) -> dict[str, Any]:
    inner = value.setdefault(name, {})
    if not isinstance(inner, dict):
        raise Misconfigured(
            [f"the settings have something else than an object under {name!r}; they are left as they are"]
        )
    return inner


def _toml(value: str | list[str]) -> str:
    """A text or a list of texts as TOML and JavaScript read it."""
    import json

    return json.dumps(value, ensure_ascii=False)
