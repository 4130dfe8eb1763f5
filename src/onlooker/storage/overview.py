"""How much work there is, over all tenants: for whoever runs Onlooker. Counts only, nothing of what was observed."""

from sqlalchemy import func, select

from onlooker.domain.jobs import JobStatus
from onlooker.storage.database import Connection
from onlooker.storage.tables import observation_generation_jobs as jobs


def count_jobs(conn: Connection) -> dict[JobStatus, int]:
    """Generation jobs by status; a status without a job is 0."""
    rows = conn.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status))
    found = {JobStatus(status): number for status, number in rows}
    return {status: found.get(status, 0) for status in JobStatus}
