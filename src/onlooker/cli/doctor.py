"""`onlooker doctor`: what is set, what is reachable, what to do."""

import asyncio
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onlooker.cli.agents import AGENTS
from onlooker.cli.options import json_option
from onlooker.domain.errors import Conflict, Misconfigured, OnlookerError, StorageUnavailable

if TYPE_CHECKING:
    from onlooker.domain.lanes import LaneState
    from onlooker.settings import Settings
    from onlooker.storage.database import Database

WORKER_SEEN_MS = 30_000
"""Three heartbeats."""
DATABASE_WAIT_S = 5.0


class Level(StrEnum):
    """How a check came out. A note is nothing wrong, but good to know."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, what is so, and what to do about it where something is to be done."""

    name: str
    level: Level
    found: str
    advice: str = ""


@click.command(epilog="Example: onlooker doctor --agent claude-code")
@click.option("--agent", type=click.Choice(list(AGENTS)), help="Try this agent's hook too, up to a search hit.")
@json_option
def doctor(*, agent: str | None, as_json: bool) -> None:
    """Say what is set, what is reachable and what to do. Exit code 1 when something is wrong.

    With --agent a made-up tool use goes in by the command that is in the agent's settings, and is followed until a
    search finds it; it is removed afterwards.
    """
    import json

    settings, told, checks = _check_settings()
    if settings is not None:
        checks += [_check_home(settings.home), _check_key(settings.home), *_check_settings_file(settings.home)]
        file = settings.database.removeprefix("sqlite:///")
        if file != settings.database and not Path(file).exists():
            checks.append(Check("database", Level.NOTE, f"{file} is not there yet", "it is made at the first start"))
        else:
            checks += asyncio.run(_check_parts(settings))
        spool = _check_spool(settings.home)
        checks += [*_check_processes(settings.home), asyncio.run(_check_provider(settings)), *spool]
        if agent is not None and all(check.level is not Level.PROBLEM for check in spool):
            checks += asyncio.run(_try_hook(agent, settings))
    is_well = all(check.level is not Level.PROBLEM for check in checks)
    if as_json:
        report = {"ok": is_well, "settings": told, "checks": [asdict(check) for check in checks]}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _show(told, checks)
    if not is_well:
        click.get_current_context().exit(1)


async def _try_hook(agent: str, settings: "Settings") -> list[Check]:
    """The steps of a made-up tool use on its way."""
    from onlooker.cli.probe import probe

    return [
        Check(f"{agent}, {step.name}", Level.OK if step.worked else Level.PROBLEM, step.found, step.advice)
        for step in await probe(agent, settings)
    ]


def _show(told: list[dict[str, str]], checks: list[Check]) -> None:
    marks = {Level.OK: ("ok", "green"), Level.NOTE: ("note", "yellow"), Level.PROBLEM: ("PROBLEM", "red")}
    changed = [each for each in told if each["from"] != "default"]
    click.echo(f"Settings ({len(told) - len(changed)} at their defaults, see docs/configuration.md):")
    for each in changed:
        click.echo(f"  {each['name']} = {each['value']}  ({each['from']})")
    click.echo("Checks:")
    for check in checks:
        word, colour = marks[check.level]
        click.echo(f"  {click.style(f'{word:8}', fg=colour)}{check.name}: {check.found}")
        if check.advice:
            click.echo(f"          → {check.advice}")


def _check_settings() -> tuple["Settings | None", list[dict[str, str]], list[Check]]:
    from onlooker.settings import PREFIX, load_settings, origins

    try:
        settings, come_from = load_settings(), origins()
    except Misconfigured as error:
        return None, [], [Check("settings", Level.PROBLEM, each, "correct or unset it") for each in error.problems]
    told = [
        {"name": PREFIX + name.upper(), "value": _shown(getattr(settings, name)), "from": origin}
        for name, origin in come_from.items()
    ]
    return settings, told, [Check("settings", Level.OK, "every value is valid")]


def _shown(value: Any) -> str:
    from onlooker.storage.urls import hide_passwords

    return hide_passwords(str(int(value) if isinstance(value, bool) else value))


def _check_home(home: Path) -> Check:
    if not home.exists():
        return Check("home", Level.NOTE, f"{home} is not there yet", "it is made at the first start")
    try:
        with tempfile.TemporaryFile(dir=home):
            return Check("home", Level.OK, f"{home} can be written")
    except OSError as error:
        advice = "give it to the user that runs Onlooker, or set ONLOOKER_HOME to another folder"
        return Check("home", Level.PROBLEM, f"{home} cannot be written: {error.strerror}", advice)


def _check_key(home: Path) -> Check:
    path = home / "key"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return Check("key", Level.NOTE, "there is no key yet", "it is made at the first start")
    if mode & 0o077:
        return Check("key", Level.PROBLEM, f"{path} can be read by others", f"chmod 600 {path}")
    return Check("key", Level.OK, f"{path} can be read by its owner only")


def _check_settings_file(home: Path) -> Iterator[Check]:
    """A file with a model's key in it is for its owner."""
    path = home / "settings.toml"
    try:
        is_open, names_key = stat.S_IMODE(path.stat().st_mode) & 0o077, "_api_key" in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if is_open and names_key:
        yield Check("settings", Level.PROBLEM, f"{path} has a key and can be read by others", f"chmod 600 {path}")


async def _check_parts(settings: "Settings") -> list[Check]:
    """Database, queue, jobs and workers, without changing any of them."""
    from onlooker.storage.database import open_database

    try:
        async with (
            asyncio.timeout(DATABASE_WAIT_S),
            open_database(
                settings.database, pool_size=1, timeout_s=DATABASE_WAIT_S, direct_url=settings.database_direct_url
            ) as database,
        ):
            schema, is_current = await _check_schema(database)
            if not is_current:
                return [schema]
            return [
                schema,
                *await _check_direct(settings, database),
                *await _check_queue(settings, database),
                *await _check_lanes(settings, database),
                *await _check_caps(settings, database),
            ]
    except (OnlookerError, TimeoutError) as error:
        found = f"{_shown(settings.database)}: {str(error) or 'no answer'}"
        advice = "start the database, or correct ONLOOKER_DATABASE_URL; a damaged file is replaced by a copy of it"
        return [Check("database", Level.PROBLEM, found, advice)]


async def _check_direct(settings: "Settings", database: "Database") -> list[Check]:
    """Whether there is a way past the pooler, where one is named."""
    if not settings.database_direct_url:
        return []
    try:
        await database.alone(lambda _conn: None)
    except StorageUnavailable as error:
        return [Check("database", Level.PROBLEM, str(error), "correct or unset it; then work is found a second later")]
    return [Check("database", Level.OK, "it can be reached past its pooler")]


async def _check_schema(database: "Database") -> tuple[Check, bool]:
    from onlooker.storage import schema

    installed = await database.read(schema.installed_version)
    if installed == schema.SCHEMA_VERSION:
        return Check("database", Level.OK, f"{database.url} has schema {installed}"), True
    found = f"{database.url} has schema {installed or 'none'}, this version has {schema.SCHEMA_VERSION}"
    return Check("database", Level.NOTE, found, "it is brought up to date at the next start"), False


async def _check_queue(settings: "Settings", database: "Database") -> list[Check]:
    from onlooker.domain.jobs import JobStatus
    from onlooker.host import ProcessIdentity
    from onlooker.parts import open_queue
    from onlooker.storage import overview, workers

    try:
        queue = open_queue(settings, database, ProcessIdentity.of_this_process())
    except Misconfigured as error:
        return [Check("queue", Level.PROBLEM, each, "correct or unset it") for each in error.problems]
    try:
        health = await queue.health()
        if not health.ok:
            found = f"{health.engine}: {health.error}"
            return [Check("queue", Level.PROBLEM, found, "make it reachable; the rows keep what is to be done")]
        depth = await queue.depth()
    finally:
        await queue.close()
    jobs = await database.read(overview.count_jobs)
    queued, processing, failed = jobs[JobStatus.QUEUED], jobs[JobStatus.PROCESSING], jobs[JobStatus.FAILED]
    seen = len(await database.read(lambda conn: workers.seen_within(conn, WORKER_SEEN_MS)))
    checks = [Check("queue", Level.OK, f"{health.engine} works, {depth.pending} messages")]
    if warning := health.details.get("warning"):
        checks.append(Check("queue", Level.NOTE, str(warning), "set it in the configuration of that Redis"))
    if failed:
        found = f"{queued} queued, {processing} processing, {failed} failed for good"
        checks.append(
            Check("jobs", Level.NOTE, found, "onlooker jobs list --status failed, then onlooker jobs retry ID")
        )
    else:
        checks.append(Check("jobs", Level.OK, f"{queued} queued, {processing} processing"))
    if seen:
        checks.append(Check("workers", Level.OK, f"{seen} at work"))
    elif queued:
        found = f"none was seen in the last {WORKER_SEEN_MS // 1000} s, and {queued} jobs wait"
        checks.append(Check("workers", Level.PROBLEM, found, "onlooker server start, or onlooker worker start"))
    else:
        checks.append(Check("workers", Level.NOTE, "none is at work", "onlooker server start runs one"))
    return checks


def _check_processes(home: Path) -> Iterator[Check]:
    from onlooker.cli.daemon import find, is_healthy
    from onlooker.cli.state import StateFiles

    for role in ("server", "worker"):
        try:
            runtime = find(StateFiles(home, role))
        except (Conflict, OSError) as error:
            yield Check(role, Level.PROBLEM, str(error))
            continue
        if runtime is None:
            if role == "server":
                yield Check(role, Level.NOTE, "not running", "onlooker server start")
        elif is_healthy(runtime):
            yield Check(role, Level.OK, f"runs{f' at {runtime.url}' if runtime.url else ''} (pid {runtime.pid})")
        else:
            found = f"pid {runtime.pid} does not answer at {runtime.url}"
            yield Check(role, Level.PROBLEM, found, f"onlooker {role} restart")


async def _check_provider(settings: "Settings") -> Check:
    from onlooker.parts import build_provider

    try:
        await build_provider(settings).close()
    except Misconfigured as error:
        return Check("provider", Level.PROBLEM, str(error), "docs/providers.md has each provider's settings")
    models = [getattr(settings, f"{name}_model", "") for name in settings.provider.split(",")]
    named = zip(settings.provider.split(","), models, strict=True)
    return Check("provider", Level.OK, ", then ".join(f"{name} ({model})" if model else name for name, model in named))


async def _check_lanes(settings: "Settings", database: "Database") -> list[Check]:
    """Providers that workers have found not to take calls. One of a chain is worth a note, all of it a problem."""
    from onlooker.domain.lanes import LaneCondition
    from onlooker.services.lanes import chosen_lanes, told

    lanes = await database.read(lambda conn: chosen_lanes(conn, settings))
    closed = [lane for lane in lanes if lane.condition is not LaneCondition.OPEN]
    level = Level.PROBLEM if len(closed) == len(lanes) else Level.NOTE
    return [Check("provider", level, told(lane), _advice_for(lane)) for lane in closed]


async def _check_caps(settings: "Settings", database: "Database") -> list[Check]:
    """Caps in dollars that do not bound what a model costs, since nobody knows its price."""
    from onlooker.cli.usage import PRICE_IT, UNBOUND
    from onlooker.parts import unpriced_models
    from onlooker.storage import spending

    if not (settings.cap_in_dollars or await database.read(spending.any_cap_in_dollars)):
        return []
    return [Check("caps", Level.PROBLEM, UNBOUND.format(model), PRICE_IT) for model in unpriced_models(settings)]


def _advice_for(lane: "LaneState") -> str:
    from onlooker.cli.options import local_time

    again = f"it is tried again at {local_time(lane.until)}" if lane.until else "it is tried again by itself"
    match lane.condition:
        case "exhausted":
            return f"top up or raise the limit there, then onlooker jobs resume; else {again}"
        case "bad-settings":
            return f"correct key, model or base URL and restart the workers; else {again}"
    return again


def _check_spool(home: Path) -> list[Check]:
    try:
        return list(_look_into_spool(home))
    except OSError as error:
        advice = f"give {home / 'spool'} to the user that runs Onlooker, and let that user alone in"
        return [Check("spool", Level.PROBLEM, f"{error.filename} cannot be read: {error.strerror}", advice)]


def _look_into_spool(home: Path) -> Iterator[Check]:
    from onlooker.hooks import client
    from onlooker.services.spool import count_dropped

    waiting = sum(1 for _ in client.waiting(str(home)))
    if waiting:
        found = f"{waiting} hook payloads found no server; they are stored when it runs"
        yield Check("spool", Level.NOTE, found, "onlooker server start")
    dropped = count_dropped(home)
    if dropped:
        found = f"{dropped} hook payloads were dropped because the spool or its disk was full"
        yield Check("spool", Level.NOTE, found, "onlooker import transcript brings in what Claude Code or Codex wrote")
    rejected = home / "spool" / "rejected" / "reasons.jsonl"
    if rejected.exists():
        yield Check("spool", Level.NOTE, f"some payloads could not be stored: {rejected} says why")
