"""`onlooker install AGENT` and `onlooker exclude FOLDER`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onlooker.cli.agents import AGENTS, Agent, Installation
from onlooker.cli.options import json_option, tell
from onlooker.cli.settings_files import Change, apply
from onlooker.domain.errors import Misconfigured

if TYPE_CHECKING:
    from onlooker.settings import Settings

KEY_FILE, URL_FILE = "hook.key", "hook.url"
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
    stays, and a copy of each changed file is kept beside it. A file that cannot be read is not touched.
    """
    from onlooker.settings import load_settings

    settings = load_settings()
    if url and not key:
        raise Misconfigured(["--url needs a key of that server: give --key or ONLOOKER_KEY"])
    if url and local:
        raise Misconfigured(["--url names another server, --local this home's own: give one of them"])
    agent = AGENTS[name]
    folder = Path.cwd() if for_folder else None
    where = Installation(settings.home, folder, with_prompt_notes=prompt_notes, remove=uninstall)
    changes = [change for change in agent.plan(where) if change.is_one]
    copies: list[tuple[Path, Path | None]] = []
    told: list[str] = []
    if not dry_run:
        if not uninstall:
            told = _connect(settings, url, key, local=local)
            # Agents write these files too, and a key takes its time.
            changes = [change for change in agent.plan(where) if change.is_one]
        copies = apply(changes)
    report = {
        "agent": name,
        "changed": [str(change.path) for change in changes],
        "copies": [str(copy) for _, copy in copies if copy is not None],
        "dryRun": dry_run,
        "uninstalled": uninstall,
        "notes": told,
    }
    tell(as_json, report, lambda: _say(agent, changes, copies, told, dry_run=dry_run, uninstall=uninstall))


def _connect(settings: "Settings", url: str | None, key: str | None, *, local: bool) -> list[str]:
    """Put address and key where the hook client reads them; what was done. A key that is there and works is kept.

    Another server that was named before is kept too, unless it is to be the `local` one: all agents tell the same.
    """
    from onlooker.app import make_home
    from onlooker.cli.state import write_private

    make_home(settings)
    if url and key:
        write_private(settings.home / URL_FILE, f"{url}\n")
        write_private(settings.home / KEY_FILE, f"{key}\n")
        return [f"The server's address and key are in {settings.home}, for your eyes only."]
    from onlooker.cli.local import run
    from onlooker.hooks.client import read_line

    known = read_line(str(settings.home), URL_FILE)
    if known and not local:
        return [f"Hooks tell the server at {known}, as before; --local lets them tell this home's own."]
    (settings.home / URL_FILE).unlink(missing_ok=True)
    return run(_make_key(settings))


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
