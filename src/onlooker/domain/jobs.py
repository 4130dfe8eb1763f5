"""Generation jobs: kinds, statuses, the legal transitions, and when a failed one runs again."""

from enum import StrEnum

MAX_ATTEMPTS = 5
FIRST_DELAY_MS = 2_000
LONGEST_DELAY_MS = 60_000
LEASE_MS = 60_000
"""A job's lease: the authority on who may write its result (`protocol.md`, numbers)."""

LEASE_RENEWAL_MS = 20_000
LONGEST_OUTAGE_MS = 24 * 3_600_000
"""A job that an outage has held for so long is dead-lettered."""

LONGEST_PARK_ON_QUEUE_MS = 60_000
"""A longer delay is kept by the row alone and its message is confirmed (R9)."""


class JobKind(StrEnum):
    """What a job makes of its source. `EMBED` is reserved."""

    EVENT = "event"
    EVENT_BATCH = "event-batch"
    SUMMARY = "summary"
    REINDEX = "reindex"
    EMBED = "embed"


CALLS_A_MODEL = frozenset({JobKind.EVENT, JobKind.EVENT_BATCH, JobKind.SUMMARY})
"""Kinds whose jobs ask a provider: what pauses it or bounds its cost holds them, and no others."""

ID_PREFIX = {
    JobKind.EVENT: "evt_",
    JobKind.EVENT_BATCH: "evtb_",
    JobKind.SUMMARY: "sum_",
    JobKind.REINDEX: "rdx_",
    JobKind.EMBED: "emb_",
}

KIND_LANES = {
    JobKind.EVENT: "server_beta_generate_event",
    JobKind.EVENT_BATCH: "server_beta_generate_event_batch",
    JobKind.SUMMARY: "server_beta_generate_summary",
    JobKind.REINDEX: "server_beta_reindex",
    JobKind.EMBED: "server_beta_embed",
}
"""The lane of each kind on the wire."""


class JobStatus(StrEnum):
    """Where a job stands. Completed and cancelled are final; a failed one is the dead letter and may be retried."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({JobStatus.QUEUED, JobStatus.PROCESSING})

TRANSITIONS = {
    JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.PROCESSING: frozenset(
        {JobStatus.QUEUED, JobStatus.PROCESSING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.COMPLETED: frozenset[JobStatus](),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}
"""Processing to processing is a second worker that takes over after the lease; failed or cancelled to queued is an
operator's retry."""


def may_become(old: JobStatus, new: JobStatus) -> bool:
    """Whether a job may go from one status to the other."""
    return new in TRANSITIONS[old]


def retry_delay_ms(failures: int, jitter: float, retry_after_s: float | None = None) -> int:
    """How long a job waits after its n-th failure (1 = the first), in milliseconds.

    Doubles from 2 s to 60 s; `jitter` in [0, 1) spreads it over the upper half, so that jobs that failed together do
    not return together. A provider's own retry-after wins when it is longer.
    """
    ceiling = min(LONGEST_DELAY_MS, FIRST_DELAY_MS << min(failures - 1, 10))
    delay = int(ceiling * (0.5 + jitter / 2))
    return delay if retry_after_s is None else max(delay, int(retry_after_s * 1000))
