"""What an operator does with generation jobs: look, retry, cancel, resume."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onlooker.domain.models import Job, Principal, Scope
from onlooker.services.outbox import Outbox
from onlooker.storage import job_pages, jobs, provider_lanes
from onlooker.storage.database import Connection, Database
from onlooker.storage.job_pages import JobFilter

CANCELLED_BY_OPERATOR = "cancelled by an operator"


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of the jobs that match, and how many match in all."""

    jobs: Sequence[Job]
    total: int


class Jobs:
    """Every method raises `NotFound` for another tenant's job, and `StorageUnavailable`."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def page(self, principal: Principal, wanted: JobFilter, *, limit: int, offset: int) -> JobPage:
        """A page of the jobs that the principal reaches, the latest first; `wanted.project_id` is one of them."""
        narrowed = replace(wanted, project_id=principal.project_id or wanted.project_id)
        found, total = await self._database.read(
            lambda conn: job_pages.list_jobs(conn, principal.team_id, narrowed, limit=limit, offset=offset)
        )
        return JobPage(found, total)

    async def get(self, scope: Scope, job_id: str) -> Job:
        """One job."""
        return await self._database.read(lambda conn: jobs.get(conn, scope, job_id))

    async def payloads(self, scope: Scope, job: Job) -> list[str]:
        """What the job is about, as JSON texts."""
        return await self._database.read(lambda conn: job_pages.payloads_of(conn, scope, job))

    async def retry(self, scope: Scope, job_id: str) -> tuple[Job, bool]:
        """Queue a failed or cancelled job again and ring it; False when it was queued already, and is now due.

        Raises `IllegalTransition` while it is processing or after it completed.
        """
        job, again = await self._database.tx(lambda conn: jobs.retry(conn, scope, job_id))
        await self._ring_head(job)
        return job, again

    async def cancel(self, scope: Scope, job_id: str) -> tuple[Job, bool]:
        """Cancel a queued or processing job; False when it was cancelled already. The session's next job is rung.

        Raises `IllegalTransition` for one that completed or failed.
        """
        job, now = await self._database.tx(lambda conn: jobs.cancel(conn, scope, job_id, reason=CANCELLED_BY_OPERATOR))
        if now:
            await self._ring_head(job)
        return job, now

    async def resume(self, principal: Principal, project_id: str | None = None) -> int:
        """Make due all that is held, for whatever reason, and ring it; how many. Providers are asked again at once.

        What has not changed holds them again, with its reason. A second call resumes none.
        """
        project_id = principal.project_id or project_id

        def work(conn: Connection) -> list[Job]:
            provider_lanes.clear(conn)
            return jobs.resume(conn, principal.team_id, project_id)

        resumed = await self._database.tx(work)
        await self._outbox.publish(resumed)
        return len(resumed)

    async def _ring_head(self, job: Job) -> None:
        """Ring what may run now: the session's head, or the job itself where it belongs to none (R9)."""
        head = await self._database.read(lambda conn: jobs.next_head(conn, job.session_id, job.id))
        if head is not None:
            await self._outbox.publish([head])
