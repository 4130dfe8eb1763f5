"""`onlooker jobs …`."""

from typing import TYPE_CHECKING, Any

import click

from onlooker.cli.options import TimeOf, json_option, local_time, show_table, tell

if TYPE_CHECKING:
    from onlooker.domain.models import Job

STATUSES = ("queued", "processing", "completed", "failed", "cancelled")
LONGEST_REASON = 60


@click.group(epilog="Example: onlooker jobs list --status failed")
def jobs() -> None:
    """List, show, retry, cancel and resume generation jobs: what makes observations of events."""


@jobs.command("list", epilog="Example: onlooker jobs list --status failed --json")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that are in this state.")
@click.option("--project", help="Only those of this project; without it, of all.")
@click.option("--since", type=TimeOf(), help="Only those made at or after this day or time (2026-03-31).")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many to show.")
@click.option("--offset", type=click.IntRange(0), default=0, help="How many to leave out before them.")
@json_option
def list_jobs(
    *, status: str | None, project: str | None, since: int | None, limit: int, offset: int, as_json: bool
) -> None:
    """List jobs, the latest first."""
    from onlooker.cli.local import open_local, run
    from onlooker.domain.jobs import JobStatus
    from onlooker.storage.job_pages import JobFilter

    async def show() -> None:
        async with open_local() as local:
            project_id = (await local.projects(project))[0].id if project is not None else None
            wanted = JobFilter(project_id, JobStatus(status) if status else None, since=since)
            page = await local.app.jobs.page(local.principal, wanted, limit=limit, offset=offset)
        if as_json:
            told = {
                "jobs": [_job_json(job) for job in page.jobs],
                "total": page.total,
                "limit": limit,
                "offset": offset,
            }
            tell(as_json, told, str)
            return
        show_table(
            ("id", "kind", "tool", "status", "attempts", "made", "reason"),
            [
                (
                    job.id,
                    str(job.kind),
                    job.tool_name or "",
                    str(job.status),
                    f"{job.attempts}/{job.max_attempts}",
                    local_time(job.created_at),
                    (job.held_reason or job.last_error or "")[:LONGEST_REASON],
                )
                for job in page.jobs
            ],
        )
        click.echo(f"{len(page.jobs)} of {page.total} jobs", err=True)

    run(show())


@jobs.command("show", epilog="Example: onlooker jobs show evt_0f3a…")
@click.argument("job_id", metavar="JOB")
@json_option
def show_job(*, job_id: str, as_json: bool) -> None:
    """Show one job: its state, its attempts and why it failed."""
    from onlooker.cli.local import open_local, run

    async def show() -> None:
        async with open_local() as local:
            scope = await local.app.accounts.scope_of(local.principal, "job", job_id)
            job = await local.app.jobs.get(scope, job_id)
        told = _job_json(job)
        width = max(map(len, told))
        tell(as_json, told, lambda: "\n".join(f"{name:{width}}  {_shown(name, told[name])}" for name in told))

    run(show())


@jobs.command("retry", epilog="Example: onlooker jobs retry evt_0f3a…")
@click.argument("job_ids", metavar="JOB…", nargs=-1, required=True)
@json_option
def retry_jobs(*, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Queue failed or cancelled jobs again, at their place in their session's order."""
    from onlooker.cli.local import open_local, run

    async def retry() -> None:
        told: list[dict[str, Any]] = []
        async with open_local() as local:
            for job_id in job_ids:
                scope = await local.app.accounts.scope_of(local.principal, "job", job_id)
                job, again = await local.app.jobs.retry(scope, job_id)
                told.append({"generationJob": _job_json(job), "alreadyQueued": not again})
        said = [f"{each['generationJob']['id']} {'was' if each['alreadyQueued'] else 'is'} queued" for each in told]
        tell(as_json, {"jobs": told}, lambda: "\n".join(said))

    run(retry())


@jobs.command("cancel", epilog="Example: onlooker jobs cancel evt_0f3a…")
@click.argument("job_ids", metavar="JOB…", nargs=-1, required=True)
@json_option
def cancel_jobs(*, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs that are queued or running; their session goes on with the next."""
    from onlooker.cli.local import open_local, run

    async def cancel() -> None:
        told: list[dict[str, Any]] = []
        async with open_local() as local:
            for job_id in job_ids:
                scope = await local.app.accounts.scope_of(local.principal, "job", job_id)
                job, now = await local.app.jobs.cancel(scope, job_id)
                told.append({"generationJob": _job_json(job), "alreadyCancelled": not now})
        said = [
            f"{each['generationJob']['id']} {'was' if each['alreadyCancelled'] else 'is'} cancelled" for each in told
        ]
        tell(as_json, {"jobs": told}, lambda: "\n".join(said))

    run(cancel())


@jobs.command("resume", epilog="Example: onlooker jobs resume --project website")
@click.option("--project", help="Only those of this project; without it, of all.")
@json_option
def resume_jobs(*, project: str | None, as_json: bool) -> None:
    """Let jobs that are held go on: after a quota, a bill or a key was put in order, or a cap raised."""
    from onlooker.cli.local import open_local, run

    async def resume() -> None:
        async with open_local() as local:
            project_id = (await local.projects(project))[0].id if project is not None else None
            resumed = await local.app.jobs.resume(local.principal, project_id)
        tell(as_json, {"resumed": resumed}, lambda: f"{resumed} jobs resumed.")

    run(resume())


def _job_json(job: "Job") -> dict[str, Any]:
    """A job as `GET /v1/jobs/JOB` tells it."""
    import msgspec

    from onlooker.http.schemas import JobView

    told: dict[str, Any] = msgspec.to_builtins(JobView.of(job))
    return told


def _shown(name: str, value: Any) -> str:
    if name.endswith("Epoch"):
        return local_time(value)
    return "" if value is None else str(value)
