"""Installing into agents: their settings get what is ours, keep what is not, and lose ours again."""

import json
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from cli_runner import EXECUTABLE, Cli, one_line
from onlooker.cli.agents import AGENTS, Installation, as_command, is_ours
from onlooker.cli.settings_files import apply
from onlooker.domain.errors import Misconfigured
from onlooker.hooks import client
from onlooker.hooks.client import BLOCK, LARGEST_SPOOL
from onlooker.storage.tables import (
    agent_events,
    observation_generation_jobs,
    observations,
    projects,
    server_sessions,
    turns,
)

FILES = {
    "claude-code": (".claude/settings.json", ".claude.json"),
    "codex": (".codex/hooks.json", ".codex/config.toml"),
    "cursor": (".cursor/hooks.json", ".cursor/mcp.json"),
    "windsurf": (".codeium/windsurf/hooks.json", ".codeium/windsurf/mcp_config.json"),
    "gemini-cli": (".gemini/settings.json",),
    "opencode": (".config/opencode/plugin/onlooker.js", ".config/opencode/opencode.json"),
}
FOREIGN: dict[str, dict[str, Any]] = {
    ".claude/settings.json": {
        "model": "opus",
        "hooks": {
            "PostToolUse": [{"matcher": "Edit", "hooks": [{"type": "command", "command": "fmt"}]}],
            "Notification": [{"hooks": [{"type": "command", "command": "beep"}]}],
        },
    },
    ".claude.json": {"numStartups": 7, "mcpServers": {"other": {"command": "x"}}},
    ".codex/hooks.json": {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "beep"}]}]}},
    ".cursor/hooks.json": {"version": 1, "hooks": {"stop": [{"command": "beep"}]}},
    ".cursor/mcp.json": {"mcpServers": {"other": {"command": "x"}}},
    ".codeium/windsurf/hooks.json": {"hooks": {"post_run_command": [{"command": "beep", "show_output": True}]}},
    ".codeium/windsurf/mcp_config.json": {"mcpServers": {"other": {"command": "x"}}},
    ".gemini/settings.json": {"theme": "dark", "mcpServers": {"other": {"command": "x"}}},
    ".config/opencode/opencode.json": {"$schema": "x", "mcp": {"other": {"type": "remote", "url": "x"}}},
}
TOML = '# mine\nmodel = "gpt"\n\n[mcp_servers.other]\ncommand = "x"\n'


@pytest.fixture
def user(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's own folder, with nothing in it, here and for what the command line runs."""
    folder = tmp_path / "user"
    folder.mkdir()
    none = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME", "CLAUDE_PROJECT_DIR")
    for name, value in {"HOME": str(folder), **dict.fromkeys(none, "")}.items():
        monkeypatch.setenv(name, value)
        cli.extra[name] = value
    return folder


def change(cli: Cli, agent: str, *, remove: bool = False) -> tuple[list[Path], list[Path]]:
    """What `install` does to the agent's files: which it changed, and the copies that it kept."""
    changes = [each for each in AGENTS[agent].plan(Installation(cli.home, remove=remove)) if each.is_one]
    done = apply(changes, cli.home / "copies")
    return [path for path, _ in done], [copy for _, copy in done if copy is not None]


def write_foreign(user: Path) -> dict[Path, str]:
    """Settings that somebody has already; their texts."""
    texts = {user / name: json.dumps(value, indent=4) + "\n" for name, value in FOREIGN.items()}
    texts[user / ".codex/config.toml"] = TOML
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o640)
    return texts


def commands_in(value: Any) -> Iterator[str]:
    """Every hook command of ours anywhere in settings."""
    if isinstance(value, dict):
        if is_ours(value.get("command")):
            yield value["command"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from commands_in(each)


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_installed_is_all_there_once_and_gone_again(cli: Cli, user: Path, agent: str) -> None:
    files = [user / name for name in FILES[agent]]
    assert change(cli, agent) == (files, [])
    texts = [path.read_text() for path in files]
    assert "onlooker" in texts[-1]

    assert change(cli, agent) == ([], [])
    assert [path.read_text() for path in files] == texts

    change(cli, agent, remove=True)
    assert [path for path in files if path.exists()] == []
    assert change(cli, agent, remove=True) == ([], [])


@pytest.mark.parametrize("agent", AGENTS)
def test_what_others_wrote_stays_to_the_letter_and_copies_are_kept(cli: Cli, user: Path, agent: str) -> None:
    before = write_foreign(user)

    changed, copies = change(cli, agent)

    theirs = [path for path in changed if path in before]
    assert {stat.S_IMODE(path.stat().st_mode) for path in theirs} == {0o640}
    assert [copy.read_text() for copy in copies] == [before[path] for path in theirs]
    for path in [path for path in theirs if path.suffix == ".json"]:
        assert json.loads(path.read_text()).keys() >= json.loads(before[path]).keys()
    assert "# mine" in (user / ".codex/config.toml").read_text()

    change(cli, agent, remove=True)
    assert {path: path.read_text() for path in before} == before


@pytest.mark.parametrize("agent", ["claude-code", "codex"])
def test_line_ends_of_windows_stay_and_copies_are_exact(cli: Cli, user: Path, agent: str) -> None:
    before = {path: text.replace("\n", "\r\n").encode() for path, text in write_foreign(user).items()}
    for path, data in before.items():
        path.write_bytes(data)

    changed, copies = change(cli, agent)

    theirs = [path for path in changed if path in before]
    assert theirs
    assert [copy.read_bytes() for copy in copies] == [before[path] for path in theirs]
    for path in theirs:
        assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")
    change(cli, agent, remove=True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("agent", ["claude-code", "codex", "gemini-cli"])
def test_a_mark_of_the_byte_order_stays(cli: Cli, user: Path, agent: str) -> None:
    before = {path: b"\xef\xbb\xbf" + text.encode() for path, text in write_foreign(user).items()}
    for path, data in before.items():
        path.write_bytes(data)

    changed, _ = change(cli, agent)

    theirs = [path for path in changed if path in before]
    assert theirs
    assert [path.read_bytes().count(b"\xef\xbb\xbf") for path in theirs] == [1] * len(theirs)
    assert change(cli, agent) == ([], [])
    change(cli, agent, remove=True)
    assert {path: path.read_bytes() for path in before} == before


def test_half_of_a_character_pair_that_an_agent_wrote_stays_half(cli: Cli, user: Path) -> None:
    path = user / ".claude.json"
    text = '{\n  "history": "cut within \\ud83d",\n  "name": "é"\n}\n'
    path.write_text(text)
    change(cli, "claude-code")
    assert "\\ud83d" in path.read_text()
    change(cli, "claude-code", remove=True)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "agent, name, value",
    [
        ("gemini-cli", ".gemini/settings.json", {"hooks": {"disabled": []}}),
        ("claude-code", ".claude/settings.json", {"hooks": {"Stop": [], "Notification": [{"hooks": []}]}}),
        ("cursor", ".cursor/hooks.json", {"version": 1, "hooks": {"stop": []}}),
    ],
)
def test_what_others_left_empty_stays(cli: Cli, user: Path, agent: str, name: str, value: dict[str, Any]) -> None:
    path = user / name
    path.parent.mkdir()
    text = json.dumps(value, indent=2) + "\n"
    path.write_text(text)
    assert change(cli, agent, remove=True) == ([], [])
    change(cli, agent)
    for event, entries in value["hooks"].items():
        assert json.loads(path.read_text())["hooks"][event][: len(entries)] == entries


def test_an_uninstall_leaves_a_file_without_anything_of_ours(cli: Cli, user: Path) -> None:
    path = user / ".cursor" / "hooks.json"
    path.parent.mkdir()
    for text in ('{"version": 1, "hooks": {}}', '{"version": 1}', '{"hooks": {}}'):
        path.write_text(text)
        assert change(cli, "cursor", remove=True) == ([], [])
        assert path.read_text() == text


def test_what_changed_in_between_is_not_written_over(cli: Cli, user: Path) -> None:
    write_foreign(user)
    changes = AGENTS["claude-code"].plan(Installation(cli.home))
    path = user / ".claude.json"
    path.write_text('{"numStartups": 8}')
    before = (user / ".claude" / "settings.json").read_text()
    with pytest.raises(Misconfigured, match="changed meanwhile"):
        apply(changes, cli.home / "copies")
    assert path.read_text() == '{"numStartups": 8}'
    assert (user / ".claude" / "settings.json").read_text() == before


def test_tables_that_codex_adds_before_our_last_line_stay(cli: Cli, user: Path) -> None:
    """A comment at a file's end stays there when Codex adds a table: it comes to stand within ours."""
    path = user / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(TOML)
    change(cli, "codex")
    added = '\n# trusted\n[projects."/work"]\ntrust_level = "trusted"\n\n[hooks.state."x"]\ntrusted_hash = "sha256:1"\n'
    head, end, _ = path.read_text().rpartition("# end: onlooker\n")
    path.write_text(head + added + end)

    assert change(cli, "codex") == ([], [])
    moved = Installation(cli.home / "moved")
    apply(AGENTS["codex"].plan(moved), cli.home / "copies")
    settings = tomllib.loads(path.read_text())
    assert settings["projects"] == {"/work": {"trust_level": "trusted"}}
    assert settings["mcp_servers"]["onlooker"]["env"] == {"ONLOOKER_HOME": str(moved.home)}

    change(cli, "codex", remove=True)
    assert path.read_text() == TOML + added


def test_two_changes_within_a_second_keep_both_copies(cli: Cli, user: Path) -> None:
    before = write_foreign(user)
    copies = [copy for remove in (False, True, False) for copy in change(cli, "cursor", remove=remove)[1]]
    assert len(set(copies)) == 6
    assert copies[0].read_text() in before.values()


def test_the_command_says_what_it_changed_and_the_second_time_that_nothing_is_to_do(cli: Cli, user: Path) -> None:
    told = cli.succeed("install", "claude-code")
    assert str(user / ".claude" / "settings.json") in told
    assert "onlooker doctor --agent claude-code" in told
    assert cli.run("install", "claude-code", "--json").json()["changed"] == []
    assert cli.run("install", "claude-code", "--uninstall", "--json").json()["uninstalled"] is True
    assert "Nothing" in cli.succeed("install", "claude-code", "--uninstall")


def test_hooks_run_by_absolute_paths_and_only_a_start_asks_for_context(cli: Cli, user: Path) -> None:
    cli.succeed("install", "claude-code")
    hooks = json.loads((user / ".claude/settings.json").read_text())["hooks"]
    assert set(hooks) == {
        "SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop", "SubagentStop", "PreCompact",
        "SessionEnd",
    }  # fmt: skip
    for event, groups in hooks.items():
        words = shlex.split(groups[0]["hooks"][0]["command"])
        assert Path(words[0]).is_absolute()
        assert words[1:3] == ["-I", "-S"]
        assert Path(words[3]).is_file()
        assert words[4:7] == ["claude-code", "--home", str(cli.home)]
        assert ("--context" in words) is (event == "SessionStart")
    cli.succeed("install", "claude-code", "--prompt-notes")
    hooks = json.loads((user / ".claude/settings.json").read_text())["hooks"]
    assert "--context" in hooks["UserPromptSubmit"][0]["hooks"][0]["command"]
    assert len(hooks["UserPromptSubmit"]) == 1


@pytest.mark.usefixtures("user")
def test_a_key_is_made_that_can_manage_nothing_and_it_is_kept(cli: Cli) -> None:
    cli.succeed("install", "cursor")
    cli.succeed("install", "codex")
    path = cli.home / "hook.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = [key for key in cli.run("keys", "list", "--json").json()["keys"] if key["name"] == "agents of this home"]
    assert [key["scopes"] for key in keys] == [["read", "write"]]


def test_another_servers_address_and_key_stand_in_the_home_alone(cli: Cli, user: Path) -> None:
    key = "onl_" + "k" * 43
    told = cli.succeed("install", "claude-code", "--url", "https://onlooker.example", "--key", key)
    assert key not in told + (user / ".claude/settings.json").read_text() + (user / ".claude.json").read_text()
    assert (cli.home / "hook.key").read_text() == f"{key}\n"
    assert (cli.home / "hook.url").read_text() == "https://onlooker.example\n"
    assert cli.run("install", "claude-code", "--url", "https://onlooker.example").code == 2

    assert "https://onlooker.example" in cli.succeed("install", "cursor")
    assert (cli.home / "hook.url").exists()
    assert (cli.home / "hook.key").read_text() == f"{key}\n"
    cli.succeed("install", "cursor", "--local")
    assert not (cli.home / "hook.url").exists()
    assert (cli.home / "hook.key").read_text() != f"{key}\n"
    assert cli.run("install", "cursor", "--local", "--url", "https://onlooker.example", "--key", key).code == 2


FOLDER_FILES = {
    "claude-code": (".claude/settings.local.json",),
    "codex": (".codex/hooks.json",),
    "cursor": (".cursor/hooks.json", ".cursor/mcp.json"),
    "windsurf": (".windsurf/hooks.json",),
    "gemini-cli": (".gemini/settings.json",),
    "opencode": (".opencode/plugin/onlooker.js", "opencode.json"),
}


def run_in(cli: Cli, folder: Path, *arguments: str) -> dict[str, Any]:
    """What a command says as JSON that is run in a folder."""
    ran = subprocess.run(
        [str(EXECUTABLE), *arguments, "--json"], cwd=folder, env=cli.env, check=True, capture_output=True, text=True
    )
    told = json.loads(ran.stdout)
    assert isinstance(told, dict)
    return told


@pytest.mark.parametrize("agent", AGENTS)
def test_for_one_folder_only_its_own_files_are_written_there_once_and_gone_again(
    cli: Cli, user: Path, tmp_path: Path, agent: str
) -> None:
    folder = tmp_path / 'it\'s "mine" ünd'
    folder.mkdir()
    cli.extra["ONLOOKER_HOME"] = str(tmp_path / "ho me's")

    def files() -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    told = run_in(cli, folder, "install", agent, "--project", "--dry-run")
    assert files() == set()
    assert not (tmp_path / "ho me's").exists()
    written = told["changed"]

    told = run_in(cli, folder, "install", agent, "--project")
    assert told["changed"] == written
    assert files() == set(FOLDER_FILES[agent])
    assert all(name in told["notes"][-1] for name in FOLDER_FILES[agent])
    assert [path for path in written if Path(path).is_relative_to(user) and "hooks" in Path(path).name] == []

    assert run_in(cli, folder, "install", agent, "--project")["changed"] == []
    assert run_in(cli, folder, "install", agent, "--project", "--uninstall")["changed"] == written
    assert files() == set()
    assert [path for path in user.rglob("*") if path.is_file()] == []
    assert run_in(cli, folder, "install", agent, "--project", "--uninstall")["changed"] == []


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("agent", AGENTS)
def test_what_a_folder_has_of_others_stays_and_no_copy_lies_in_it(cli: Cli, tmp_path: Path, agent: str) -> None:
    folder = tmp_path / "work"
    before = {
        folder / name: '{"version": 1, "theirs": {"x": [1]}}\n'
        for name in FOLDER_FILES[agent]
        if name.endswith(".json")
    }
    for path, text in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    copies = run_in(cli, folder, "install", agent, "--project")["copies"]
    assert sorted(Path(copy).read_text() for copy in copies) == sorted(before.values())
    assert all(Path(copy).is_relative_to(cli.home / "copies") for copy in copies)
    assert {stat.S_IMODE(Path(copy).stat().st_mode) for copy in copies} == {0o600}
    assert all(json.loads(path.read_text())["theirs"] == {"x": [1]} for path in before)

    run_in(cli, folder, "install", agent, "--project", "--uninstall")
    assert {path for path in folder.rglob("*") if path.is_file()} == set(before)
    assert all(json.loads(path.read_text()) == json.loads(text) for path, text in before.items())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_read_only_file_is_left_as_it_is(cli: Cli, user: Path, agent: str) -> None:
    path = user / FILES[agent][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".js":
        change(cli, agent)
        shutil.rmtree(cli.home, ignore_errors=True)
        path.write_text(path.read_text() + "\n")
    else:
        path.write_text("{}\n")
    before = path.read_text()
    path.chmod(0o444)

    ended = cli.run("install", agent, bound_by_modes=True)

    assert ended.code == 2
    assert f"{path} is read-only" in one_line(ended.err)
    assert path.read_text() == before
    assert not cli.home.exists()
    assert cli.run("install", agent, "--dry-run", bound_by_modes=True).code == 2


def test_a_folder_that_cannot_be_written_is_said_by_the_files_name(cli: Cli, user: Path) -> None:
    folder = user / ".claude"
    folder.mkdir(mode=0o555)
    ended = cli.run("install", "claude-code", bound_by_modes=True)
    assert ended.code == 2
    assert one_line(ended.err).startswith(f"onlooker: {folder / 'settings.json'} cannot be written")
    assert not (user / ".claude.json").exists()


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("url", ["not a url", "ftp://h.example", "https://", "h.example:8080", "https://h.example?x"])
def test_an_address_that_no_hook_could_post_to_is_refused(cli: Cli, url: str) -> None:
    ended = cli.run("install", "cursor", "--url", url, "--key", "onl_x")
    assert ended.code == 2
    assert "--url" in one_line(ended.err)
    assert cli.run("install", "cursor", "--url", "https://h.example/onlooker", "--key", "onl x").code == 2
    assert "--url" in one_line(cli.run("install", "cursor", "--key", "onl_x").err)
    assert not (cli.home / "hook.url").exists()


@pytest.mark.usefixtures("user")
def test_taking_out_what_was_never_there_makes_nothing(cli: Cli) -> None:
    assert "Nothing of Onlooker's" in cli.succeed("install", "codex", "--uninstall")
    assert not cli.home.exists()


@pytest.mark.usefixtures("user")
def test_a_dry_run_tells_of_address_and_key_too(cli: Cli) -> None:
    assert "A key would be made" in cli.succeed("install", "cursor", "--dry-run")
    told = cli.succeed("install", "cursor", "--dry-run", "--url", "https://h.example", "--key", "onl_x")
    assert "address and key would be put" in told
    assert "onl_x" not in told
    assert not cli.home.exists()


@pytest.mark.parametrize("agent, servers", [("codex", ".codex/config.toml"), ("windsurf", FILES["windsurf"][1])])
def test_a_server_that_the_person_has_too_stays_when_it_is_taken_out_of_a_folder(
    cli: Cli, user: Path, tmp_path: Path, agent: str, servers: str
) -> None:
    def plan(folder: Path | None, *, remove: bool = False) -> None:
        apply(AGENTS[agent].plan(Installation(cli.home, folder, remove=remove)), cli.home / "copies")

    plan(None)
    plan(tmp_path)
    plan(tmp_path, remove=True)
    assert "onlooker" in (user / servers).read_text()
    plan(None, remove=True)
    plan(tmp_path)
    plan(tmp_path, remove=True)
    assert not (user / servers).exists()


def test_a_dry_run_shows_what_would_change_and_changes_nothing(cli: Cli, user: Path) -> None:
    before = write_foreign(user)
    shown = cli.succeed("install", "claude-code", "--dry-run")
    assert "+" in shown
    assert "hooks/client.py" in shown
    assert {path: path.read_text() for path in before} == before
    assert not cli.home.exists()


@pytest.mark.parametrize(
    "agent, name, text",
    [
        ("claude-code", ".claude/settings.json", '{"hooks": '),
        ("claude-code", ".claude.json", "[]"),
        ("claude-code", ".claude/settings.json", '{"hooks": []}'),
        ("claude-code", ".claude/settings.json", '{"hooks": {"Stop": {}}}'),
        ("opencode", ".config/opencode/opencode.json", '{\n  // comment\n  "mcp": {}\n}'),
        ("opencode", ".config/opencode/plugin/onlooker.js", "export const Mine = 1"),
        ("codex", ".codex/config.toml", "model = "),
        ("codex", ".codex/config.toml", '[mcp_servers.onlooker]\ncommand = "mine"\n'),
    ],
)
def test_a_file_that_cannot_be_understood_is_not_touched_and_neither_are_others(
    cli: Cli, user: Path, agent: str, name: str, text: str
) -> None:
    path = user / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(Misconfigured) as refusal:
        change(cli, agent)
    assert "left as" in str(refusal.value)
    assert [each for each in user.rglob("*") if each.is_file()] == [path]
    assert path.read_text() == text


def test_a_file_that_is_not_understood_is_one_line(cli: Cli, user: Path) -> None:
    (user / ".claude.json").write_text("{")
    ended = cli.run("install", "claude-code")
    assert ended.code == 2
    assert ".claude.json" in one_line(ended.err)
    assert not (cli.home / "hook.key").exists()


def test_codex_settings_are_toml_with_and_without_ours(cli: Cli, user: Path) -> None:
    write_foreign(user)
    cli.succeed("install", "codex")
    servers = tomllib.loads((user / ".codex/config.toml").read_text())["mcp_servers"]
    assert set(servers) == {"other", "onlooker"}
    assert servers["onlooker"]["args"] == ["-m", "onlooker", "mcp"]
    assert servers["onlooker"]["env"] == {"ONLOOKER_HOME": str(cli.home)}


@pytest.mark.usefixtures("user")
def test_what_is_to_be_done_in_the_agent_itself_is_said(cli: Cli) -> None:
    assert "trust" in cli.succeed("install", "codex")
    assert "trust" not in cli.succeed("install", "cursor")


def test_an_installation_that_has_moved_is_replaced(cli: Cli, user: Path) -> None:
    old = "/old/python -I -S /old/onlooker/hooks/client.py claude-code"
    path = user / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"hooks": {"Stop": [{"hooks": [{"type": "command", "command": old}]}]}}))
    cli.succeed("install", "claude-code")
    commands = list(commands_in(json.loads(path.read_text())))
    assert old not in commands
    assert len(commands) == 8


def test_a_command_on_windows_has_forward_slashes_and_quotes() -> None:
    words = ["C:\\Program Files\\Python\\python.exe", "-I", "-S", "C:\\x\\client.py", "codex"]
    assert as_command(words, windows=True) == '"C:/Program Files/Python/python.exe" -I -S C:/x/client.py codex'
    assert as_command(["C:\\Users\\O'Brien\\python.exe"], windows=True) == '"C:/Users/O\'Brien/python.exe"'


def test_folders_are_excluded_and_included_again(cli: Cli, tmp_path: Path) -> None:
    assert "No folder" in cli.succeed("exclude")
    cli.succeed("exclude", str(tmp_path))
    cli.succeed("exclude", str(tmp_path))
    assert cli.run("exclude", "--json").json() == {"excluded": [str(tmp_path)]}
    cli.succeed("exclude", str(tmp_path), "--remove")
    assert cli.run("exclude", "--json").json() == {"excluded": []}


@pytest.mark.usefixtures("user")
def test_the_doctor_follows_made_up_hooks_to_a_search_hit(cli: Cli) -> None:
    cli.succeed("server", "start")
    assert "onlooker install" in cli.run("doctor", "--agent", "claude-code").out
    for agent in ("claude-code", "windsurf", "opencode"):
        cli.succeed("install", agent)
        told = cli.run("doctor", "--agent", agent, "--json").json()
        steps = [check for check in told["checks"] if check["name"].startswith(agent)]
        assert [step["level"] for step in steps] == ["ok"] * 5, steps
        assert "test_probe_" in steps[-1]["found"]
        assert_nothing_is_left(cli)


def assert_nothing_is_left(cli: Cli) -> None:
    """No project but the one that every home has, and no session, event or note in it."""

    tables = (projects, server_sessions, agent_events, observations, observation_generation_jobs, turns)
    with closing(sqlite3.connect(f"file:{cli.home / 'onlooker.db'}?mode=ro", uri=True)) as database:
        counts = [database.execute(str(select(func.count()).select_from(table))).fetchone()[0] for table in tables]
    assert counts == [1, 0, 0, 0, 0, 0]


@pytest.mark.usefixtures("user")
def test_the_doctor_leaves_nothing_of_a_hook_that_is_told_to_one_project(cli: Cli) -> None:
    cli.succeed("server", "start")
    cli.succeed("install", "claude-code")
    cli.succeed("projects", "create", "website")
    made = cli.run("keys", "create", "--project", "website", "--scope", "read,write", "--json").json()["key"]
    (cli.home / "hook.key").write_text(f"{made}\n")
    assert cli.run("doctor", "--agent", "claude-code").code == 0
    assert "test_probe" not in cli.succeed("search", "test_probe")


def failing(cli: Cli, agent: str = "claude-code") -> dict[str, str]:
    """The step of the doctor's that failed."""
    ended = cli.run("doctor", "--agent", agent, "--json")
    assert ended.code == 1
    checks = [check for check in json.loads(ended.out)["checks"] if check["name"].startswith(agent)]
    assert [check["level"] for check in checks[:-1]] == ["ok"] * (len(checks) - 1)
    last: dict[str, str] = checks[-1]
    assert last["level"] == "problem"
    return last


@pytest.mark.usefixtures("user")
def test_the_doctor_follows_a_made_up_hook_on_another_server(cli: Cli, tmp_path: Path) -> None:
    other = Cli(tmp_path / "other")
    other.succeed("server", "start")
    try:
        url = other.runtime()["url"]
        keys = [
            other.run("keys", "create", "--scope", scope, "--json").json()["key"] for scope in ("read,write", "write")
        ]
        cli.succeed("install", "claude-code", "--url", url, "--key", keys[0])
        told = cli.run("doctor", "--agent", "claude-code", "--json").json()
        assert "test_probe_" in told["checks"][-1]["found"]
        assert_nothing_is_left(other)

        cli.succeed("install", "claude-code", "--url", url, "--key", keys[1])
        step = failing(cli)
        assert "do not include read" in step["found"]
        assert "read,write" in step["advice"]
    finally:
        other.succeed("server", "stop")


@pytest.mark.usefixtures("user")
def test_the_doctor_says_that_a_hook_found_no_server_and_leaves_nothing_behind(cli: Cli) -> None:
    cli.succeed("install", "claude-code")
    step = failing(cli)
    assert "no server answers at http://127.0.0.1:" in step["found"]
    assert step["advice"].startswith("onlooker server start")
    assert list((cli.home / "spool" / "events").iterdir()) == []


@pytest.mark.usefixtures("user")
def test_the_doctor_says_that_the_key_is_not_taken_and_what_it_advises_helps(cli: Cli) -> None:
    cli.succeed("install", "claude-code")
    cli.succeed("server", "start")
    (cli.home / "hook.key").write_text("onl_" + "x" * 43 + "\n")
    step = failing(cli)
    assert "does not take the key of the hooks (403)" in step["found"]
    assert step["advice"] == "onlooker install claude-code"
    cli.succeed("install", "claude-code")
    assert cli.run("doctor", "--agent", "claude-code").code == 0


@pytest.mark.usefixtures("user")
def test_the_doctor_says_that_the_spool_is_full(cli: Cli) -> None:
    cli.succeed("install", "claude-code")
    with (cli.home / "spool" / "blocks").open("wb") as file:
        file.truncate(LARGEST_SPOOL // BLOCK + 1)
    step = failing(cli)
    assert "found no room in the spool" in step["found"]
    assert "onlooker server start" in step["advice"]


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("url", ["http://onlooker.invalid:9", "http://127.0.0.1:9"])
def test_the_doctor_says_that_the_server_that_was_named_is_away(cli: Cli, url: str) -> None:
    cli.succeed("install", "claude-code", "--url", url, "--key", "onl_x")
    step = failing(cli)
    assert f"no server answers at {url}" in step["found"]
    assert "--local" in step["advice"]


@pytest.mark.usefixtures("user")
def test_the_doctor_says_that_the_spool_is_somebody_elses(cli: Cli) -> None:
    cli.succeed("install", "claude-code")
    (cli.home / "spool").chmod(0)
    ended = cli.run("doctor", "--agent", "claude-code", "--json", bound_by_modes=True)
    (cli.home / "spool").chmod(0o700)
    assert ended.code == 1
    last = json.loads(ended.out)["checks"][-1]
    assert (last["name"], last["level"]) == ("spool", "problem")
    assert "cannot be read" in last["found"]
    assert "give" in last["advice"]


@pytest.mark.usefixtures("user")
def test_the_doctor_says_that_a_folder_is_excluded(cli: Cli) -> None:
    cli.succeed("install", "claude-code")
    cli.extra["ONLOOKER_EXCLUDE"] = "1"
    assert "it is excluded" in failing(cli)["found"]


@pytest.mark.parametrize(
    "of, gone", [(client.__file__, "/gone/onlooker/hooks/client.py"), (sys.executable, "/gone/bin/python")]
)
def test_the_doctor_says_that_what_the_hook_runs_is_gone(cli: Cli, user: Path, of: str, gone: str) -> None:
    cli.succeed("install", "claude-code")
    path = user / ".claude" / "settings.json"
    path.write_text(path.read_text().replace(of, gone))
    step = failing(cli)
    assert gone in step["found"]
    assert step["advice"] == "onlooker install claude-code"


def test_the_doctor_says_that_settings_cannot_be_read(cli: Cli, user: Path) -> None:
    cli.succeed("install", "claude-code")
    (user / ".claude" / "settings.json").write_text("{")
    step = failing(cli)
    assert "settings.json is not JSON" in step["found"]
    assert "onlooker install claude-code" in step["advice"]
