"""The grouped write: events with their sessions, places, jobs and audit, in one transaction for many requests."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from sqlalchemy.exc import DBAPIError

from onlooker.domain import keys
from onlooker.domain.errors import NotFound, OnlookerError
from onlooker.domain.models import Event, Job, NewEvent, NewSession, Recorded, Scope, Turn
from onlooker.host import new_id
from onlooker.storage import dialect, events, forgetting, sessions, turns, utterances
from onlooker.storage.database import Connection
from onlooker.storage.new_jobs import insert_jobs, new_job, source_of, stored_jobs
from onlooker.storage.sessions import session_lock
from onlooker.storage.tables import agent_events, audit_log

RECORDED = "events.recorded"
"""The audit log's name of it; one row for each key and project of a group."""


@dataclass(slots=True, eq=False)
class _Arrival:
    """One event key on its way through a group; `event` is the row that is stored, ours where `fresh`."""

    new: NewEvent
    generate: bool
    session_id: str | None = None
    event: Event | None = None
    fresh: bool = False
    buried: bool = False
    """Whether it was forgotten: it is not stored again."""
    job: Job | None = None


@dataclass(slots=True, eq=False)
class _Group:
    """The arrivals of one project."""

    scope: Scope
    arrivals: list[_Arrival]

    def fresh(self) -> list[_Arrival]:
        return [arrival for arrival in self.arrivals if arrival.fresh]


def record_requests(
    conn: Connection, requests: Sequence[Sequence[NewEvent]], *, max_attempts: int
) -> list[list[Recorded]]:
    """`record_events` of several requests at once; their answers in the same shape.

    One after the other, where both sides of a prompt may be among them: the second is found by what the first stored.
    """
    origins = {new.utterance.origin for request in requests for new in request if new.utterance is not None}
    if len(origins) > 1:
        return [record_events(conn, request, max_attempts=max_attempts) for request in requests]
    recorded = iter(record_events(conn, [new for request in requests for new in request], max_attempts=max_attempts))
    return [[next(recorded) for _ in request] for request in requests]


def record_apart(
    conn: Connection, requests: Sequence[Sequence[NewEvent]], *, max_attempts: int
) -> list[list[Recorded] | Exception]:
    """`record_requests` where one of them is bad: each in a savepoint, its failure in the place of its answer.

    A database that is not there is everybody's failure, and raised.
    """
    answers: list[list[Recorded] | Exception] = []
    for request in requests:
        try:
            with conn.begin_nested():
                answers.append(record_events(conn, request, max_attempts=max_attempts))
        except OnlookerError as error:
            answers.append(error)
        except DBAPIError as error:
            if dialect.unavailable(error) is not None:
                raise
            answers.append(error)
    return answers


def record_events(conn: Connection, new: Sequence[NewEvent], *, max_attempts: int) -> list[Recorded]:
    """Store events with their jobs, all or none, and say what became of each, in the order given.

    Sessions that are not known are opened. An event whose key is stored, or came earlier in `new`, changes nothing
    and gives the first one's row and job, which is made now if that row was stored without. One that was forgotten
    is a duplicate of no session and without a job, and its id names nothing. Raises `NotFound` for a
    `session_id` that is not a session of the event's project.
    """
    arrivals: dict[tuple[str, str], _Arrival] = {}
    for event in new:
        known = arrivals.setdefault((event.scope.project_id, event.event_key), _Arrival(event, event.generate))
        known.generate = known.generate or event.generate
    groups = _by_scope(arrivals.values())
    for group in groups:
        _name_sessions(conn, group)
    locked = {arrival.session_id for arrival in arrivals.values() if arrival.session_id is not None}
    dialect.lock_keys(conn, map(session_lock, locked))
    for group in groups:
        _find_stored(conn, group)
        _find_twins(conn, group)
        _place(conn, group)
    _insert_events(conn, groups)
    for group in groups:
        _remember_utterances(conn, group)
        _add_jobs(conn, group, locked, max_attempts)
    _audit(conn, groups)
    return _answers(new, arrivals)


def _by_scope(arrivals: Iterable[_Arrival]) -> list[_Group]:
    """Sorted, so that two groups of several projects cannot wait for each other in a ring."""
    groups: dict[Scope, _Group] = {}
    for arrival in arrivals:
        scope = arrival.new.scope
        if scope not in groups:
            groups[scope] = _Group(scope, [])
        groups[scope].arrivals.append(arrival)
    return [groups[scope] for scope in sorted(groups, key=attrgetter("project_id", "team_id"))]


def _name_sessions(conn: Connection, group: _Group) -> None:
    """Give each arrival the id of its session; sessions that only the agent's own id names are found or opened."""
    named: dict[str, NewSession] = {}
    for arrival in group.arrivals:
        new = arrival.new
        arrival.session_id = new.session_id
        if new.session_id is None and new.content_session_id is not None and new.content_session_id not in named:
            named[new.content_session_id] = NewSession(
                id=new_id(),
                content_session_id=new.content_session_id,
                agent_id=new.agent_id,
                agent_type=new.agent_type,
                platform_source=new.platform_source,
                started_at=new.occurred_at,
            )
    if not named:
        return
    ids = sessions.open_by_content(conn, group.scope, named, group.arrivals[0].new.received_at)
    for arrival in group.arrivals:
        if arrival.session_id is None and arrival.new.content_session_id is not None:
            arrival.session_id = ids[arrival.new.content_session_id]


def _find_stored(conn: Connection, group: _Group) -> None:
    """Give each arrival the row that is stored under its key; those without one are fresh."""
    stored = events.events_by_keys(conn, group.scope, [arrival.new.event_key for arrival in group.arrivals])
    for arrival in group.arrivals:
        arrival.event = stored.get(arrival.new.event_key)
        arrival.fresh = arrival.event is None
    if fresh := group.fresh():
        buried = forgetting.buried(conn, group.scope, [arrival.new.event_key for arrival in fresh])
        for arrival in fresh:
            if arrival.new.event_key in buried:
                arrival.buried, arrival.fresh = True, False
                arrival.event = _event(arrival.new, None, None, None)


def _find_twins(conn: Connection, group: _Group) -> None:
    """Give what a hook told and a transcript tells again, or the other way round, the row that is stored."""
    for arrival in group.fresh():
        new = arrival.new
        if new.utterance is None or arrival.session_id is None:
            continue
        arrival.event = utterances.find_twin(conn, group.scope, arrival.session_id, new)
        arrival.fresh = arrival.event is None


def _remember_utterances(conn: Connection, group: _Group) -> None:
    """What is stored now may be told again by the other side."""
    told = [(arrival.new, arrival.event) for arrival in group.fresh() if arrival.event is not None]
    utterances.remember(conn, group.scope, told)


def _place(conn: Connection, group: _Group) -> None:
    """Make the rows of what is fresh, each with the next place of its session."""
    fresh = group.fresh()
    if not fresh:
        return
    counts = Counter(arrival.session_id for arrival in fresh if arrival.session_id is not None)
    last = sessions.advance(conn, group.scope, counts, fresh[0].new.received_at) if counts else {}
    if len(last) != len(counts):
        raise NotFound("no such session")
    following = {session_id: seq - counts[session_id] for session_id, seq in last.items()}
    batch_ids = _batch_ids(fresh)
    for arrival in fresh:
        seq = None
        if arrival.session_id is not None:
            seq = following[arrival.session_id] = following[arrival.session_id] + 1
        batch_id = batch_ids.get(arrival.new.id) if batch_ids else None
        arrival.event = _event(arrival.new, arrival.session_id, seq, batch_id)


def _batch_ids(fresh: Sequence[_Arrival]) -> dict[str, str]:
    """By event id, the source of the job that the events of one request and of no session share."""
    together: dict[str, list[str]] = {}
    for arrival in fresh:
        if arrival.session_id is None and arrival.generate and arrival.new.batch is not None:
            together.setdefault(arrival.new.batch, []).append(arrival.new.id)
    shared = ((ids, keys.batch_source_id(ids)) for ids in together.values() if len(ids) > 1)
    return {event_id: batch_id for ids, batch_id in shared for event_id in ids}


def _event(new: NewEvent, session_id: str | None, seq: int | None, batch_id: str | None) -> Event:
    return Event(
        id=new.id,
        team_id=new.scope.team_id,
        project_id=new.scope.project_id,
        session_id=session_id,
        seq=seq,
        event_key=new.event_key,
        api_key_id=new.api_key_id,
        source_type=new.source_type,
        source_adapter=new.source_adapter,
        source_event_id=new.source_event_id,
        event_type=new.event_type,
        content_session_id=new.content_session_id,
        memory_session_id=new.memory_session_id,
        payload_json=new.payload_json,
        metadata_json=new.metadata_json,
        occurred_at=new.occurred_at,
        received_at=new.received_at,
        created_at=new.received_at,
        batch_id=batch_id,
    )


def _insert_events(conn: Connection, groups: Sequence[_Group]) -> None:
    """Write the fresh rows; one that another process wrote meanwhile, under the same key, is not fresh any more.

    That happens only to events of no session, or of two: a session's are looked up and written under its lock.
    """
    fresh = [event for group in groups for event in _events(group.fresh())]
    fresh.sort(key=attrgetter("project_id", "event_key"))
    written = dialect.insert_new(conn, agent_events, events.WRITTEN, fresh)
    if written == len(fresh):
        return
    for group in groups:
        arrivals = group.fresh()
        stored = events.events_by_keys(conn, group.scope, [arrival.new.event_key for arrival in arrivals])
        for arrival in arrivals:
            winner = stored[arrival.new.event_key]
            arrival.fresh = winner.id == arrival.new.id
            arrival.event = winner


def _events(arrivals: Iterable[_Arrival]) -> list[Event]:
    return [arrival.event for arrival in arrivals if arrival.event is not None]


def _add_jobs(conn: Connection, group: _Group, locked: set[str], max_attempts: int) -> None:
    """Give each arrival its job: new ones for what is fresh, the stored or the missing one for what was known."""
    fresh = group.fresh()
    ending = [event for event in _events(fresh) if event.event_type == turns.TURN_END]
    ended = turns.end_turns(conn, group.scope, ending) if ending else {}
    made: dict[str, Job] = {}
    for arrival in fresh:
        if arrival.generate and arrival.event is not None:
            job = _job(arrival, arrival.event, ended.get(arrival.event.id), max_attempts)
            arrival.job = made.setdefault(job.id, job)
    insert_jobs(conn, sorted(made.values(), key=attrgetter("id")))
    known = [arrival for arrival in group.arrivals if not arrival.fresh and not arrival.buried]
    if known:
        _find_jobs(conn, group.scope, known, locked, max_attempts)


def _job(arrival: _Arrival, event: Event, turn: Turn | None, max_attempts: int) -> Job:
    return new_job(
        source_of(event, turn),
        arrival.new.scope,
        session_id=event.session_id,
        seq=event.seq,
        max_attempts=max_attempts,
        now=arrival.new.received_at,
        api_key_id=event.api_key_id,
        tool_name=arrival.new.tool_name,
        source_bytes=len(event.payload_json),
    )


def _find_jobs(conn: Connection, scope: Scope, known: Sequence[_Arrival], locked: set[str], max_attempts: int) -> None:
    """The jobs of rows that were there before; one that is wanted and missing is made now."""
    wanted = [
        (arrival, _job(arrival, arrival.event, turns.turn_ended_by(conn, scope, arrival.event), max_attempts))
        for arrival in known
        if arrival.event is not None
    ]
    stored = stored_jobs(conn, scope, [job.id for _, job in wanted])
    for arrival, job in wanted:
        arrival.job = stored.get(job.id)
        if arrival.job is None and arrival.generate:
            if job.session_id is not None and job.session_id not in locked:
                dialect.lock_keys(conn, [session_lock(job.session_id)])
            ours = insert_jobs(conn, [job]) == 1
            arrival.job = stored[job.id] = job if ours else stored_jobs(conn, scope, [job.id])[job.id]


def _audit(conn: Connection, groups: Sequence[_Group]) -> None:
    """One row for each key that stored something in a project; it names the event where there is but one."""
    rows: list[tuple[str | int | None, ...]] = []
    for group in groups:
        by_key: dict[str | None, list[Event]] = {}
        for event in _events(group.fresh()):
            by_key.setdefault(event.api_key_id, []).append(event)
        for key_id, stored in by_key.items():
            subject = stored[0].id if len(stored) == 1 else None
            detail = f"{len(stored)} stored"
            at = stored[0].received_at
            rows.append((group.scope.team_id, group.scope.project_id, key_id, RECORDED, "event", subject, detail, at))
    names = ("team_id", "project_id", "api_key_id", "action", "subject_type", "subject_id", "detail", "created_at")
    dialect.insert_new(conn, audit_log, names, rows)


def _answers(new: Sequence[NewEvent], arrivals: dict[tuple[str, str], _Arrival]) -> list[Recorded]:
    answers = []
    for event in new:
        arrival = arrivals[event.scope.project_id, event.event_key]
        if arrival.event is None:
            raise AssertionError("unreachable: every arrival has its row by now")
        duplicate = not arrival.fresh or arrival.new is not event
        answers.append(Recorded(arrival.event, arrival.job, duplicate))
    return answers
