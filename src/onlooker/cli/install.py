"""`onlooker install AGENT` and `onlooker exclude FOLDER`."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from onlooker.cli.agents import AGENTS, Agent, Installation
from onlooker.cli.options import json_option, tell
from onlooker.cli.settings_files import Change, apply, check_writable
from onlooker.domain.errors import Misconfigured

if TYPE_CHECKING:
    from onlooker.settings import Settings

KEY_FILE, URL_FILE, COPIES = "hook.key", "hook.url", "copies"
ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
"""What the hook client can post to."""
KEY_NAME = "agents of this home"


@click.command(epilog="Example: onlooker install claude-code --dry-run")
@click.argument("name", metavar="AGENT", type=click.Choice(list(AGENTS)))
@click.option("--project", "for_folder", is_flag=True, help="For this folder only; without it, for all of yours.")
@click.option("--url", help="The server's address, where it is not the one of this home.")
@click.option("--key", envvar="ONLOOKER_KEY", help="A key of that server with the scopes read and write.")
@click.option("--local", is_flag=True, help="The server of this home again, where --url named another.")
@click.option("--prompt-notes", is_flag=True, help="Add the few notes that fit to what is asked (Claude Code, Gemini).")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--uninstall", is_flag=True, help="Take everything of Onlooker's out of the agent's settings again.")
@json_option
def install(
    *,
    name: str,
    for_folder: bool,
    url: str | None,
    key: str | None,
    local: bool,
    prompt_notes: bool,
    dry_run: bool,
    uninstall: bool,
    as_json: bool,
) -> None:
    """Let an agent tell Onlooker of its work, and ask it.

    Hooks are put into the agent's settings, and the entry of the MCP server. AGENT is claude-code, codex, cursor,
    windsurf, gemini-cli or opencode. Again it changes nothing, or what has moved; what others have written there
    stays, and a copy of each changed file is kept in Onlooker's home. A file that cannot be read or is read-only is
    not touched. With --project files are written into this folder, where git sees them.
    """
    from onlooker.app import make_home
    from onlooker.settings import load_settings

    settings = load_settings()
    _check_server(url, key, local=local)
    agent = AGENTS[name]
    folder = Path.cwd() if for_folder else None
    where = Installation(settings.home, folder, with_prompt_notes=prompt_notes, remove=uninstall)
    changes = [change for change in agent.plan(where) if change.is_one]
    check_writable(changes)
    copies: list[tuple[Path, Path | None]] = []
    told: list[str] = []
    if not uninstall:
        told = _connect(settings, url, key, local=local, dry_run=dry_run)
    if not dry_run:
        # Agents write these files too, and a key takes its time.
        changes = [change for change in agent.plan(where) if change.is_one]
    if changes and not dry_run:
        make_home(settings)
        copies = apply(changes, settings.home / COPIES)
    if not uninstall:
        told += _in_folder(folder, changes)
    report = {
        "agent": name,
        "changed": [str(change.path) for change in changes],
        "copies": [str(copy) for _, copy in copies if copy is not None],
        "dryRun": dry_run,
        "uninstalled": uninstall,
        "notes": told,
    }
    tell(as_json, report, lambda: _say(agent, changes, copies, told, dry_run=dry_run, uninstall=uninstall))


def _check_server(url: str | None, key: str | None, *, local: bool) -> None:
    """What a hook could do nothing with is said here: it would keep everything, and say so to nobody."""
    if url is None:
        given = click.get_current_context().get_parameter_source("key")
        if key and given is ParameterSource.COMMANDLINE:
            raise Misconfigured(["--key is that of another server: give its --url too"])
        return
    if local:
        raise Misconfigured(["--url names another server, --local this home's own: give one of them"])
    if not key:
        raise Misconfigured(["--url needs a key of that server: give --key or ONLOOKER_KEY"])
    if not ADDRESS.fullmatch(url):
        raise Misconfigured([f"--url must be like https://onlooker.example, not {url!r}"])
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Misconfigured(["--key has characters that no key has"])


def _connect(settings: "Settings", url: str | None, key: str | None, *, local: bool, dry_run: bool) -> list[str]:
    """Put address and key where the hook client reads them; what was done. A key that is there and works is kept.

    Another server that was named before is kept too, unless it is to be the `local` one: all agents tell the same.
    With `dry_run` only what would be done.
    """
    from onlooker.app import make_home
    from onlooker.cli.local import run
    from onlooker.cli.state import write_private
    from onlooker.hooks.client import read_line

    home = settings.home
    if url and key:
        if dry_run:
            return [f"The server's address and key would be put into {home}, for your eyes only."]
        make_home(settings)
        write_private(home / URL_FILE, f"{url}\n")
        write_private(home / KEY_FILE, f"{key}\n")
        return [f"The server's address and key are in {home}, for your eyes only. All agents of yours tell it."]
    known = read_line(str(home), URL_FILE)
    if known and not local:
        return [f"Hooks tell the server at {known}, as before; --local lets them tell this home's own."]
    if dry_run:
        return [] if (home / KEY_FILE).exists() and not known else [f"A key would be made, in {home / KEY_FILE}."]
    make_home(settings)
    (home / URL_FILE).unlink(missing_ok=True)
    return run(_make_key(settings))


def _in_folder(folder: Path | None, changes: Sequence[Change]) -> list[str]:
    """What is to know of files that others may get with the folder."""
    inside = [str(each.path.relative_to(folder)) for each in changes if folder and each.path.is_relative_to(folder)]
    if not inside:
        return []
    return [f"In this folder itself, with paths of this machine, so not for a commit: {', '.join(inside)}."]


async def _make_key(settings: "Settings") -> list[str]:
    """A key of this home's own server that can read and write, and manage nothing."""
    from onlooker.cli.local import open_local
    from onlooker.cli.state import write_private
    from onlooker.domain.errors import Forbidden, Unauthenticated
    from onlooker.domain.models import KeyScope
    from onlooker.hooks.client import read_line

    path = settings.home / KEY_FILE
    async with open_local() as local:
        accounts = local.app.accounts
        try:
            await accounts.authenticate(read_line(str(settings.home), KEY_FILE))
        except (Forbidden, Unauthenticated):
            scopes = frozenset({KeyScope.READ, KeyScope.WRITE})
            made = await accounts.create_key(local.principal, scopes=scopes, name=KEY_NAME)
            write_private(path, f"{made.key}\n")
            return [f"A key that can read and write, and no more, is in {path}."]
    return []


def _say(
    agent: Agent,
    changes: Sequence[Change],
    copies: Sequence[tuple[Path, Path | None]],
    told: Sequence[str],
    *,
    dry_run: bool,
    uninstall: bool,
) -> str:
    lines: list[str] = []
    if not changes:
        lines.append(
            f"Nothing of Onlooker's is in {agent.title}." if uninstall else f"{agent.title} is set up already."
        )
    kept = {path: copy for path, copy in copies if copy is not None}
    for change in changes:
        if dry_run:
            lines += _difference(change)
        else:
            what = "removed" if change.after is None else "written" if change.before is None else "changed"
            lines.append(
                f"{what:8} {change.path}" + (f" (as it was: {kept[change.path]})" if change.path in kept else "")
            )
    lines += told
    if dry_run:
        lines.append("Nothing was changed. Run it without --dry-run to do so.")
    elif not uninstall:
        lines += [agent.remark] if agent.remark and changes else []
        lines.append(f"Start {agent.title} anew. Check: onlooker doctor --agent {agent.name}")
    return "\n".join(lines)


def _difference(change: Change) -> list[str]:
    before, after = ((text or "").splitlines() for text in (change.before, change.after))
    return list(difflib.unified_diff(before, after, str(change.path), str(change.path), lineterm=""))


@click.command(epilog="Example: onlooker exclude ~/private")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--remove", is_flag=True, help="Let Onlooker be told of the folder again.")
@json_option
def exclude(*, folder: Path | None, remove: bool, as_json: bool) -> None:
    """Tell Onlooker nothing of what happens in a folder and all below it. Without a folder: show which there are."""
    from onlooker.app import make_home
    from onlooker.cli.state import write_private
    from onlooker.settings import load_settings

    settings = load_settings()
    path = settings.home / "excluded"
    listed = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if folder is not None:
        wanted = str(folder.expanduser().resolve())
        listed = [each for each in listed if each.strip() and each.strip() != wanted]
        listed += [] if remove else [wanted]
        make_home(settings)
        write_private(path, "".join(f"{each}\n" for each in listed))
    tell(as_json, {"excluded": listed}, lambda: "\n".join(listed) or "No folder is excluded.")
