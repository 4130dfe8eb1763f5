"""`onlooker usage …`."""

from typing import TYPE_CHECKING, Any

import click

from onlooker.cli.options import json_option, show_table, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onlooker.services.usage import CapState, UseReport

MICRO = 1_000_000
DAY = click.DateTime(["%Y-%m-%d"])
UNBOUND = "no price of {} is known: caps in dollars do not bound what it costs"
PRICE_IT = "give its price in settings.toml (see docs/cost.md), or cap tokens"


@click.group(invoke_without_command=True, epilog="Example: onlooker usage --since 2026-03-01 --project website")
@click.option("--project", help="Only this project; without it, all of the team.")
@click.option("--since", type=DAY, help="From this day (UTC) on; without it, from the first.")
@click.option("--until", type=DAY, help="Up to this day (UTC), included.")
@json_option
@click.pass_context
def usage(context: click.Context, *, project: str | None, since: Any, until: Any, as_json: bool) -> None:
    """Show tokens, calls and cost by day, project and model, and how far each cap is used."""
    if context.invoked_subcommand is not None:
        return
    from onlooker.cli.local import open_local, run

    async def show() -> None:
        async with open_local() as local:
            projects = await local.projects(project)
            project_id = projects[0].id if project is not None else None
            report = await local.app.spending.report(
                local.principal,
                project_id,
                since=since.strftime("%Y-%m-%d") if since else None,
                until=until.strftime("%Y-%m-%d") if until else None,
            )
        if as_json:
            from onlooker.http.usage import usage_view

            tell(as_json, usage_view(report), str)
        else:
            _show(report, {each.id: each.name for each in projects})

    run(show())


@usage.command("cap", epilog="Example: onlooker usage cap --project website --monthly-usd 5")
@click.option("--project", help="The project that is capped; without it, the whole team.")
@click.option("--daily-tokens", type=click.IntRange(0), help="Tokens, in and out, in a day. 0: no cap.")
@click.option("--monthly-tokens", type=click.IntRange(0), help="Tokens in a month. 0: no cap.")
@click.option("--daily-usd", type=click.FloatRange(0), help="US dollars in a day. 0: no cap.")
@click.option("--monthly-usd", type=click.FloatRange(0), help="US dollars in a month. 0: no cap.")
@click.option("--reset", is_flag=True, help="Take all own caps away: what the settings say counts again.")
@json_option
def cap(*, project: str | None, reset: bool, as_json: bool, **given: float | None) -> None:
    """Cap what a project or the team may spend: a cap that is reached holds jobs, one that is raised frees them."""
    from onlooker.cli.local import open_local, run
    from onlooker.domain.spending import Cap, Period
    from onlooker.parts import unpriced_models
    from onlooker.settings import load_settings

    if not reset and all(amount is None for amount in given.values()):
        raise click.UsageError("Give a cap, or --reset.")

    async def change() -> None:
        async with open_local() as local:
            project_id = (await local.projects(project))[0].id if project is not None else None
            for name, amount in given.items():
                period = Period.DAY if name.startswith("daily") else Period.MONTH
                if name.endswith("tokens"):
                    new = Cap(project_id, period, "tokens", int(amount or 0))
                else:
                    new = Cap(project_id, period, "microusd", round((amount or 0) * MICRO))
                if reset or amount is not None:
                    await local.app.spending.set_cap(local.principal, new, remove=amount is None)
            resumed = await local.app.jobs.resume(local.principal, project_id)
            states = await local.app.spending.caps(local.principal, project_id)
        told = {"caps": [_cap_json(state) for state in states], "resumed": resumed}
        tell(as_json, told, lambda: "\n".join([*map(_cap_line, states), f"{resumed} held jobs go on."]))
        _say_unbound(states, unpriced_models(load_settings()))

    run(change())


def _show(report: "UseReport", names: "Mapping[str, str]") -> None:
    rows = [
        (
            day.day,
            names.get(day.project_id, day.project_id),
            day.provider,
            day.model,
            *_figures(day.usage.calls, day.usage.input_tokens, day.usage.cached_tokens, day.usage.output_tokens),
            _cost(report.cost_of(day)),
        )
        for day in report.days
    ]
    total = report.total
    figures = _figures(total.calls, total.input_tokens, total.cached_tokens, total.output_tokens)
    rows.append(("total", "", "", "", *figures, _cost(report.cost_microusd, at_least=bool(report.left_out))))
    show_table(("day", "project", "provider", "model", "calls", "in", "of it cached", "out", "cost"), rows)
    for state in report.caps:
        click.echo(_cap_line(state), err=True)
    _say_unbound(report.caps, report.left_out)


def _say_unbound(caps: "Sequence[CapState]", models: "Sequence[str]") -> None:
    """Which of these models the caps do not bound."""
    if any(state.cap.unit == "microusd" for state in caps):
        for model in models:
            click.echo(f"Note: {UNBOUND.format(model)}; {PRICE_IT}.", err=True)


def _figures(*counts: int) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in counts)


def _cost(microusd: int | None, *, at_least: bool = False) -> str:
    if microusd is None:
        return "no price known"
    return ("at least " if at_least else "") + _dollars(microusd)


def _dollars(microusd: int) -> str:
    return f"${microusd / MICRO:,.4f}"


def _cap_json(state: "CapState") -> dict[str, Any]:
    from onlooker.http.usage import cap_view

    return cap_view(state)


def _cap_line(state: "CapState") -> str:
    whose = "team" if state.cap.project_id is None else "project"
    if state.cap.unit == "tokens":
        spent, of = f"{state.spent:,}", f"{state.cap.amount:,} tokens"
    else:
        spent, of = _dollars(state.spent), _dollars(state.cap.amount)
    full = ", reached: jobs are held" if state.cap.is_reached(state.spent) else ""
    return f"{whose}, this {state.cap.period}: {spent} of {of}{full}"
