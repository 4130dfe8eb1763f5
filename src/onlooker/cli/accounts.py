"""`onlooker keys …` and `onlooker projects …`."""

from typing import TYPE_CHECKING, Any

import click

from onlooker.cli.options import json_option, local_time, show_table, tell

if TYPE_CHECKING:
    from onlooker.domain.models import ApiKey

DEFAULT_POLICY = "default"
POLICIES = ("batch", "per-event", "end-of-turn", DEFAULT_POLICY)
SCOPES = ("read", "write", "admin")
ALIASES = {
    "memories:read": "read",
    "observations:read": "read",
    "jobs:read": "read",
    "memories:write": "write",
    "events:write": "write",
    "sessions:write": "write",
}
"""What other clients' instructions call them."""


class ScopeList(click.ParamType[frozenset[str]]):
    """Scopes, divided by commas."""

    name = "scopes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        named = (each.strip() for each in str(value).split(",") if each.strip())
        scopes = frozenset(ALIASES.get(each, each) for each in named)
        if not scopes or not scopes <= set(SCOPES):
            self.fail(f"give one or more of {', '.join(SCOPES)}, divided by commas.", param, ctx)
        return scopes


@click.group(epilog="Example: onlooker keys create --scope read,write")
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create", epilog="Example: onlooker keys create --project website --scope read,write --json")
@click.option("--project", help="The one project that the key reaches; without it, all of the team.")
@click.option(
    "--scope", "scopes", type=ScopeList(), default="read,write", show_default=True, help="What the key may do."
)
@click.option("--name", default="", help="A name by which you know the key again.")
@json_option
def create_key(*, project: str | None, scopes: frozenset[str], name: str, as_json: bool) -> None:
    """Create a key. It is shown once; only its hash is stored."""
    from onlooker.cli.local import open_local, run
    from onlooker.domain.models import KeyScope

    async def create() -> None:
        async with open_local() as local:
            accounts = local.app.accounts
            bound = await accounts.find_project(local.principal, project) if project is not None else None
            made = await accounts.create_key(
                local.principal,
                scopes=frozenset(KeyScope(scope) for scope in scopes),
                project_id=bound.id if bound else None,
                name=name,
            )
        told = {
            "key": made.key,
            "id": made.stored.id,
            "teamId": made.stored.team_id,
            "projectId": made.stored.project_id,
            "scopes": _scopes(made.stored),
        }
        tell(
            as_json,
            told,
            lambda: f"{made.key}\nKeep it: it is not shown again. Revoke: onlooker keys revoke {told['id']}",
        )

    run(create())


@keys.command("list", epilog="Example: onlooker keys list --json")
@json_option
def list_keys(*, as_json: bool) -> None:
    """List the team's keys, revoked ones included; never the keys themselves."""
    from onlooker.cli.local import open_local, run

    async def show() -> None:
        async with open_local() as local:
            found = await local.app.accounts.list_keys(local.principal)
            names = {project.id: project.name for project in await local.projects(None)}
        if as_json:
            tell(as_json, {"keys": [_key_json(key) for key in found]}, str)
            return
        show_table(
            ("id", "name", "project", "scopes", "created", "last used", "state"),
            [
                (
                    key.id,
                    key.name,
                    names.get(key.project_id, "") if key.project_id else "(all)",
                    ",".join(_scopes(key)),
                    local_time(key.created_at),
                    local_time(key.last_used_at),
                    "active" if key.revoked_at is None else f"revoked {local_time(key.revoked_at)}",
                )
                for key in found
            ],
        )

    run(show())


@keys.command("revoke", epilog="Example: onlooker keys revoke 0197d0c2-5a1e-7c3b-9f00-0a1b2c3d4e5f")
@click.argument("key_id", metavar="ID")
@json_option
def revoke_key(*, key_id: str, as_json: bool) -> None:
    """Refuse a key from now on; a running server follows within 3 s. ID is that of `onlooker keys list`."""
    from onlooker.cli.local import open_local, run

    async def revoke() -> None:
        async with open_local() as local:
            key = await local.app.accounts.revoke_key(local.principal, key_id)
        tell(as_json, _key_json(key), lambda: f"Key {key.id} is revoked.")

    run(revoke())


@click.group(epilog="Example: onlooker projects create website")
def projects() -> None:
    """Create and list projects."""


@projects.command("create", epilog="Example: onlooker projects create website --json")
@click.argument("name")
@json_option
def create_project(*, name: str, as_json: bool) -> None:
    """Create a project; one of that name that is there already is told and left as it is."""
    from onlooker.cli.local import open_local, run

    async def create() -> None:
        async with open_local() as local:
            project, is_new = await local.app.accounts.create_project(local.principal, name)
        told = {"id": project.id, "name": project.name, "teamId": project.team_id}
        made = "is created" if is_new else "is there already"
        tell(as_json, told, lambda: f"Project {project.name} {made}: {project.id}")

    run(create())


@projects.command("list", epilog="Example: onlooker projects list --json")
@json_option
def list_projects(*, as_json: bool) -> None:
    """List the team's projects."""
    from onlooker.cli.local import open_local, run

    async def show() -> None:
        async with open_local() as local:
            found = await local.projects(None)
        if as_json:
            told = [
                {"id": each.id, "name": each.name, "teamId": each.team_id, "createdAtEpoch": each.created_at}
                for each in found
            ]
            tell(as_json, {"projects": told}, str)
            return
        show_table(("id", "name", "created"), [(each.id, each.name, local_time(each.created_at)) for each in found])

    run(show())


@projects.command("policy", epilog="Example: onlooker projects policy website end-of-turn")
@click.argument("name")
@click.argument("policy", required=False, type=click.Choice(POLICIES))
@json_option
def policy_of_project(*, name: str, policy: str | None, as_json: bool) -> None:
    """Say when a project's events go to the model; without a policy, show it. `default`: what the settings say."""
    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.domain.batching import GenerationPolicy

    async def work() -> None:
        async with open_local() as local:
            scope = scope_of((await local.projects(name))[0])
            if policy is not None:
                own = None if policy == DEFAULT_POLICY else GenerationPolicy(policy)
                await local.app.spending.set_policy(scope, own)
            found = await local.app.spending.policy(scope)
            counts = found or local.app.settings.generation_policy
        told = {"project": name, "policy": str(counts), "own": found is not None}
        tell(as_json, told, lambda: f"{name}: {counts}" + ("" if found else " (by the settings)"))

    run(work())


@projects.command("keep", epilog="Example: onlooker projects keep website --events-days 90")
@click.argument("name")
@click.option("--events-days", type=click.IntRange(1), help="Keep raw events for so many days.")
@click.option("--observations-days", type=click.IntRange(1), help="Keep observations for so many days.")
@click.option("--forever", is_flag=True, help="Keep everything again.")
@json_option
def keep(*, name: str, events_days: int | None, observations_days: int | None, forever: bool, as_json: bool) -> None:
    """Say how long a project keeps what it has; without an option, show it.

    What is older goes once a day, and importing it again does not bring it back. Observations outlive the events that
    they were made from, unless they have a limit of their own.
    """
    from onlooker.cli.local import open_local, run, scope_of
    from onlooker.storage.retention import Retention

    if forever and (events_days or observations_days):
        raise click.UsageError("--forever and a number of days exclude each other.")

    async def work() -> None:
        async with open_local() as local:
            scope = scope_of((await local.projects(name))[0])
            if forever:
                await local.app.retaining.put(local.principal, scope, Retention())
            elif events_days or observations_days:
                now = await local.app.retaining.get(scope)
                wanted = Retention(events_days or now.events_days, observations_days or now.observations_days)
                await local.app.retaining.put(local.principal, scope, wanted)
            kept = await local.app.retaining.get(scope)
        told = {"project": name, "eventsDays": kept.events_days, "observationsDays": kept.observations_days}
        tell(
            as_json,
            told,
            lambda: f"{name} keeps events {_days(kept.events_days)}, observations {_days(kept.observations_days)}.",
        )

    run(work())


def _days(days: int | None) -> str:
    return "for ever" if days is None else f"for {days} days"


def _scopes(key: "ApiKey") -> list[str]:
    return sorted(key.scopes, key=SCOPES.index)


def _key_json(key: "ApiKey") -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "teamId": key.team_id,
        "projectId": key.project_id,
        "scopes": _scopes(key),
        "createdAtEpoch": key.created_at,
        "expiresAtEpoch": key.expires_at,
        "revokedAtEpoch": key.revoked_at,
        "lastUsedAtEpoch": key.last_used_at,
    }
