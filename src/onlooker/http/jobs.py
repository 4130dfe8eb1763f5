"""Generation jobs: list, read, retry, cancel, resume."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from onlooker.domain.errors import Forbidden, NotFound
from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import KeyScope
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import Epoch, JobView
from onlooker.storage.job_pages import JobFilter


class JobsQuery(Struct, frozen=True):
    """Which jobs to list. `since` is an epoch in milliseconds, or a time in RFC 3339.

    Compatible servers have other names for what jobs are made of: `agent_event` is one event or several,
    `session_summary` a turn or a session, `observation_reindex` an observation.
    """

    status: JobStatus | None = None
    source_type: (
        Literal[
            "event", "event-batch", "turn", "session", "observation",
            "agent_event", "session_summary", "observation_reindex",
        ]
        | None
    ) = None  # fmt: skip
    since: Epoch | datetime | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0


class JobQuery(Struct, frozen=True):
    """`include=payload` shows an administrator what the job is about."""

    include: Literal["payload"] | None = None


class JobsView(Struct):
    """A page of jobs, the latest first, and how many match in all."""

    jobs: list[JobView]
    total: int
    limit: int
    offset: int


class OneJobView(Struct, rename="camel"):
    """One job."""

    generation_job: JobView


class RetriedView(Struct, rename="camel"):
    """A job that was queued again, or had been."""

    generation_job: JobView
    retried_count: int
    already_queued: bool


class CancelledView(Struct, rename="camel"):
    """A job that was cancelled, or had been."""

    generation_job: JobView
    already_cancelled: bool


class ResumeQuery(Struct, frozen=True, rename="camel"):
    """Whose jobs: of one project, else of all that the key reaches."""

    project_id: str | None = None


class ResumedView(Struct):
    """How many jobs were held and go on."""

    resumed: int


OTHER_NAMES = {
    "agent_event": ("event", "event-batch"),
    "session_summary": ("turn", "session"),
    "observation_reindex": ("observation",),
}
"""What jobs are made of, as compatible servers name it."""


def _epoch(since: int | datetime | None) -> int | None:
    """In milliseconds; a time without its zone is UTC."""
    if not isinstance(since, datetime):
        return since
    return int((since if since.tzinfo else since.replace(tzinfo=UTC)).timestamp() * 1000)


async def _page(call: Call, project_id: str | None) -> Reply:
    query: JobsQuery = call.query
    source_types = OTHER_NAMES.get(query.source_type, (query.source_type,)) if query.source_type else ()
    wanted = JobFilter(project_id, query.status, source_types, _epoch(query.since))
    page = await call.services.jobs.page(call.principal, wanted, limit=query.limit, offset=query.offset)
    return Reply(JobsView([JobView.of(job) for job in page.jobs], page.total, query.limit, query.offset))


async def list_jobs(call: Call) -> Reply:
    """List the jobs that the key reaches."""
    return await _page(call, None)


async def list_jobs_of_team(call: Call) -> Reply:
    """List a team's jobs."""
    if call.path["team_id"] != call.principal.team_id:
        raise NotFound("no such team")
    return await _page(call, None)


async def list_jobs_of_project(call: Call) -> Reply:
    """List a project's jobs."""
    scope = await call.services.accounts.project_in_path(call.principal, call.path["project_id"])
    return await _page(call, scope.project_id)


async def get_job(call: Call) -> Reply:
    """Read a job; what it is about only for an administrator who asks."""
    scope = await call.services.accounts.scope_of(call.principal, "job", call.path["job_id"])
    job = await call.services.jobs.get(scope, call.path["job_id"])
    if call.query.include is None:
        return Reply(OneJobView(JobView.of(job)))
    if not call.principal.may(KeyScope.ADMIN):
        raise Forbidden("include=payload needs a key with the admin scope")
    return Reply(OneJobView(JobView.of(job, payloads=await call.services.jobs.payloads(scope, job))))


async def retry_job(call: Call) -> Reply:
    """Queue a failed or cancelled job again."""
    scope = await call.services.accounts.scope_of(call.principal, "job", call.path["job_id"])
    job, again = await call.services.jobs.retry(scope, call.path["job_id"])
    return Reply(RetriedView(JobView.of(job), int(again), not again))


async def cancel_job(call: Call) -> Reply:
    """Cancel a queued or processing job."""
    scope = await call.services.accounts.scope_of(call.principal, "job", call.path["job_id"])
    job, now = await call.services.jobs.cancel(scope, call.path["job_id"])
    return Reply(CancelledView(JobView.of(job), not now))


async def resume_jobs(call: Call) -> Reply:
    """Let jobs that are held go on."""
    project_id = None
    if call.query.project_id is not None:
        project_id = (await call.services.accounts.resolve_project(call.principal, call.query.project_id)).project_id
    return Reply(ResumedView(await call.services.jobs.resume(call.principal, project_id)))


OPERATIONS = (
    Operation("GET", "/v1/jobs", "List jobs", list_jobs, {200: JobsView}, KeyScope.READ, query=JobsQuery),
    Operation(
        "GET", "/v1/jobs/{job_id}", "Read a job", get_job, {200: OneJobView}, KeyScope.READ, query=JobQuery,
        problems=frozenset({404}),
    ),
    Operation(
        "POST", "/v1/jobs/{job_id}/retry", "Queue a job again", retry_job, {200: RetriedView}, KeyScope.WRITE,
        problems=frozenset({404, 409}),
    ),
    Operation(
        "POST", "/v1/jobs/{job_id}/cancel", "Cancel a job", cancel_job, {200: CancelledView}, KeyScope.WRITE,
        problems=frozenset({404, 409}),
    ),
    Operation(
        "POST", "/v1/jobs/resume", "Let held jobs go on", resume_jobs, {200: ResumedView}, KeyScope.WRITE,
        query=ResumeQuery,
    ),
    Operation(
        "GET", "/v1/teams/{team_id}/jobs", "List a team's jobs", list_jobs_of_team, {200: JobsView}, KeyScope.READ,
        query=JobsQuery, problems=frozenset({404}),
    ),
    Operation(
        "GET", "/v1/projects/{project_id}/jobs", "List a project's jobs", list_jobs_of_project, {200: JobsView},
        KeyScope.READ, query=JobsQuery, problems=frozenset({404}),
    ),
)  # fmt: skip
