"""What is sent becomes stored events: keyed, scrubbed, in groups, and all or nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from onlooker.domain.errors import Forbidden, InvalidInput, NotFound, StorageUnavailable, Unavailable
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Event, Job, KeyScope, Principal, Project, Recorded, Scope, Team
from onlooker.domain.places import place_of_folder
from onlooker.host import new_id, now_ms
from onlooker.services.accounts import Accounts
from onlooker.services.hooks import HookPayload, HookRecorded, Hooks, Places
from onlooker.services.ingest import LATEST_TIME, LONGEST_IDENTIFIER, EventInput, Ingest, SessionInput
from onlooker.storage import accounts as account_rows
from onlooker.storage import events, turns
from onlooker.storage.database import Connection, Database
from onlooker.storage.tables import agent_events, metadata, server_sessions
from waiting import wait_until

CONCURRENT = 32
AT = 1_790_000_000_000
MARKER = "MARKER-7f3a"


@dataclass
class Published:
    """An outbox that remembers what it was asked to ring; while `away` it says that the queue is."""

    jobs: list[Job] = field(default_factory=list)
    away: bool = False

    async def __call__(self, jobs: Sequence[Job]) -> bool:
        self.jobs += jobs
        return not self.away


@dataclass
class Place:
    """An ingest with a project to send to."""

    ingest: Ingest
    database: Database
    accounts: Accounts
    published: Published
    principal: Principal
    scope: Scope

    async def tell(self, raw: Any, at: int = AT) -> HookRecorded:
        """What Claude Code's hook told at a time."""
        hooks = Hooks(
            self.database, ingest=self.ingest, accounts=self.accounts, places=Places(place_of_folder), now_ms=now_ms
        )
        return await hooks.receive(self.principal, HookPayload("claude-code", raw, at))

    def event(self, number: int = 0, **given: Any) -> EventInput:
        """An event as the load scripts send it; each number is another event."""
        payload = {"tool_name": "Bash", "tool_input": {"command": f"echo {number}"}, "tool_response": {"stdout": "ok"}}
        sent = EventInput(
            project_id=self.scope.project_id,
            source_type="hook",
            event_type="tool_use",
            occurred_at=AT + number,
            payload=payload,
            content_session_id="agent-1",
            platform_source="claude-code",
        )
        return sent._replace(**given)

    async def record(self, sent: EventInput, *, generate: bool = True) -> Recorded:
        return await self.ingest.record(self.principal, sent, generate=generate)

    async def stored(self) -> list[Event]:
        wanted = select(*events.COLUMNS).order_by(agent_events.c.seq)
        return await self.database.read(lambda conn: [Event(*row) for row in conn.execute(wanted)])


def build_ingest(database: Database, accounts: Accounts, published: Published, *, max_waiting: int = 10_000) -> Ingest:
    return Ingest(
        database,
        accounts=accounts,
        publish=published,
        new_id=new_id,
        now_ms=now_ms,
        max_attempts=5,
        max_waiting=max_waiting,
    )


@pytest_asyncio.fixture
async def place(database: Database, tmp_path: Path) -> AsyncIterator[Place]:
    accounts = Accounts(database, new_id=new_id, now_ms=now_ms)
    local = await accounts.ensure_local(tmp_path)
    published = Published()
    async with build_ingest(database, accounts, published) as ingest:
        yield Place(ingest, database, accounts, published, local.principal, Scope(local.team.id, local.project.id))


async def foreign_project(place: Place) -> Project:
    team, project = Team(new_id(), "red", 1), Project(new_id(), "", "theirs", 1)
    project = replace(project, team_id=team.id)

    def work(conn: Connection) -> None:
        account_rows.open_team(conn, team)
        account_rows.open_project(conn, project)

    await place.database.tx(work)
    return project


class Gate:
    """A database whose transactions wait until the gate opens; it remembers how many were let through."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name, self.url = database.name, database.url
        self.opened = asyncio.Event()
        self.transactions = 0
        self.failures: list[Exception] = []

    async def tx(self, work: Any, *, durable: bool = True, urgent: bool = False) -> Any:
        self.transactions += 1
        await self.opened.wait()
        if self.failures:
            raise self.failures.pop(0)
        return await self._database.tx(work, durable=durable)

    async def read(self, work: Any) -> Any:
        return await self._database.read(work)

    async def alone(self, work: Any) -> Any:
        return await self.tx(work)

    async def scrub(self) -> None:
        await self._database.scrub()


@pytest_asyncio.fixture
async def gated(place: Place) -> AsyncIterator[tuple[Gate, Place]]:
    """The same project behind a gate, and with room for 40 events."""
    gate = Gate(place.database)
    # From here on the project is remembered, so that requests come in in the order in which they are made.
    await place.accounts.resolve_project(place.principal, place.scope.project_id)
    async with AsyncExitStack() as stack:
        ingest = await stack.enter_async_context(build_ingest(gate, place.accounts, place.published, max_waiting=40))
        stack.callback(gate.opened.set)
        yield gate, replace(place, ingest=ingest)


async def until_waiting(place: Place, count: int) -> None:
    """Until so many events have come in and wait."""
    await wait_until(lambda: place.ingest.waiting == count)


async def test_an_event_is_stored_as_it_was_sent_and_its_job_is_rung(place: Place) -> None:
    sent = place.event(1, metadata={"branch": "main"}, agent_id="a1", memory_session_id="m1")

    recorded = await place.record(sent)

    (stored,) = await place.stored()
    assert stored == recorded.event
    assert json.loads(stored.payload_json) == sent.payload
    assert json.loads(stored.metadata_json) == {"branch": "main"}
    assert (stored.source_type, stored.source_adapter, stored.event_type) == ("hook", "claude-code", "tool_use")
    assert (stored.content_session_id, stored.memory_session_id) == ("agent-1", "m1")
    assert (stored.occurred_at, stored.api_key_id) == (AT + 1, place.principal.key_id)
    assert place.published.jobs == [recorded.job]
    assert not recorded.deferred


async def test_an_event_may_be_stored_without_a_job(place: Place) -> None:
    recorded = await place.record(place.event(1), generate=False)

    assert recorded.job is None
    assert place.published.jobs == []


async def test_a_job_that_cannot_be_rung_is_stored_and_said_to_be_deferred(place: Place) -> None:
    place.published.away = True

    recorded = await place.record(place.event(1))

    assert recorded.deferred
    assert recorded.job is not None


async def test_of_many_clients_that_send_the_same_event_one_stores_it(place: Place) -> None:
    answers = await asyncio.gather(*(place.record(place.event(1)) for _ in range(CONCURRENT)))

    assert sum(not answer.duplicate for answer in answers) == 1
    assert len({answer.event for answer in answers}) == 1
    assert len({answer.job for answer in answers}) == 1
    assert len(await place.stored()) == 1


async def test_a_tool_use_is_the_same_from_hook_transcript_and_replay(place: Place) -> None:
    used = {"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": {"command": "ls"}}
    session = (await place.record(place.event(0))).event.session_id

    first = await place.record(place.event(1, payload={**used, "tool_response": {"stdout": "a"}}))
    same = [
        place.event(2, payload={**used, "tool_response": "a"}, event_type="PostToolUse"),
        place.event(3, payload={**used, "tool_response": "a"}, source_type="server", platform_source=None),
        place.event(4, payload={**used, "tool_response": "a"}, content_session_id=None, server_session_id=session),
        place.event(5, payload={**used, "tool_output": "a"}, server_session_id=session),
    ]
    others = [
        place.event(6, payload={**used, "error": "no"}),
        place.event(7, payload={**used}, event_type="PreToolUse"),
        place.event(8, payload={**used, "tool_response": "a"}, content_session_id="agent-2"),
        place.event(9, payload={**used, "tool_use_id": "toolu_2", "tool_response": "a"}),
    ]

    assert [(await place.record(sent)).event.id for sent in same] == [first.event.id] * len(same)
    assert [(await place.record(sent)).duplicate for sent in others] == [False] * len(others)


async def test_an_event_that_nothing_names_is_known_by_its_content_and_time(place: Place) -> None:
    first = await place.record(place.event(1))
    reordered = dict(reversed(place.event(1).payload.items()))

    assert (await place.record(place.event(1, payload=reordered))).event == first.event
    for other in (
        place.event(1, occurred_at=AT),
        place.event(1, content_session_id="agent-2"),
        place.event(1, platform_source="codex"),
        place.event(1, payload={**reordered, "more": 1}),
    ):
        assert not (await place.record(other)).duplicate


async def test_the_senders_own_id_decides_whatever_else_differs(place: Place) -> None:
    first = await place.record(place.event(1, source_event_id="s-1"))
    second = await place.record(place.event(2, source_event_id="s-1", content_session_id=None))

    assert second.duplicate
    assert second.event == first.event


async def test_an_event_is_known_again_though_its_secrets_were_removed(place: Place) -> None:
    sent = place.event(1, payload={"tool_name": "Bash", "tool_response": f"<private>{MARKER}</private>ok"})
    other = place.event(1, payload={"tool_name": "Bash", "tool_response": "<private>else</private>ok"})

    first, again, different = [await place.record(each) for each in (sent, sent, other)]

    assert json.loads(first.event.payload_json)["tool_response"] == "ok"
    assert again.event == first.event
    assert not different.duplicate


async def test_private_parts_are_in_no_table_and_in_no_byte_of_the_file(place: Place) -> None:
    hidden = f"<private>{MARKER}</private>"
    sent = place.event(
        1,
        payload={"tool_name": "Bash", "tool_input": {"a": [hidden, {f"k{hidden}": f"<private>{MARKER} unclosed"}]}},
        metadata={"note": hidden},
    )
    await place.record(sent)
    await place.ingest.record_many(place.principal, [place.event(2), sent._replace(occurred_at=AT + 3)])
    raw = {"hook_event_name": "UserPromptSubmit", "session_id": "agent-3", "cwd": "/w/p", "prompt": f"do {hidden} it"}
    await place.tell(raw)
    await place.ingest.start_session(
        place.principal, SessionInput(place.scope.project_id, content_session_id="c", metadata={"m": hidden})
    )

    def dump(conn: Connection) -> str:
        return "\n".join(str(row) for table in metadata.sorted_tables for row in conn.execute(select(table)))

    dumped = await place.database.read(dump)
    assert "do  it" in dumped
    assert MARKER not in dumped
    if place.database.name == "sqlite":
        path = Path(place.database.url.removeprefix("sqlite:///"))
        for file in path.parent.glob(path.name + "*"):
            assert MARKER.encode() not in file.read_bytes()


async def test_what_no_database_can_hold_is_replaced_and_flagged(place: Place) -> None:
    payload = {"tool_name": "Ba\x00sh", "n": 10**300, "t": "a\x00b\ud800c", "k\x00": 1}

    recorded = await place.record(
        place.event(1, payload=payload, content_session_id="s\x00", source_event_id="\udfff", event_type="odd\x00")
    )

    stored = json.loads(recorded.event.payload_json)
    assert stored == {"tool_name": "Ba\ufffdsh", "n": str(10**300), "t": "a\ufffdb\ufffdc", "k\ufffd": 1}
    assert json.loads(recorded.event.metadata_json) == {"flags": ["big_number", "replaced_characters"]}
    assert (recorded.event.content_session_id, recorded.event.source_event_id) == ("s\ufffd", "\ufffd")
    assert await place.stored() == [recorded.event]


async def test_half_a_character_in_a_tool_use_id_is_no_matter(place: Place) -> None:
    sent = place.event(1, payload={"tool_name": "Bash", "tool_use_id": "t\ud800", "tool_response": "x"})

    first, second = await place.record(sent), await place.record(sent)

    assert (first.duplicate, second.duplicate) == (False, True)


@pytest.mark.parametrize("payload", [None, "text", 7, [1, "two"], {}])
async def test_a_payload_may_be_any_json(place: Place, payload: Any) -> None:
    recorded = await place.record(place.event(1, payload=payload))

    assert json.loads(recorded.event.payload_json) == ({} if payload is None else payload)


async def test_a_long_payload_is_cut_and_says_so(place: Place) -> None:
    recorded = await place.record(place.event(1, payload={"tool_name": "Bash", "tool_response": "x" * 400_000}))

    assert len(recorded.event.payload_json) <= 262_144
    assert json.loads(recorded.event.metadata_json) == {"flags": ["cut"]}


async def test_impossible_events_are_refused_with_the_place_of_the_mistake(place: Place) -> None:
    long = "x" * (LONGEST_IDENTIFIER + 1)
    deep: Any = []
    for _ in range(250):
        deep = [deep]
    wrong = {
        "occurredAtEpoch": [place.event(occurred_at=-1), place.event(occurred_at=LATEST_TIME + 1)],
        "sourceType": [place.event(source_type="elsewhere")],
        "eventType": [place.event(event_type=""), place.event(event_type=long)],
        "contentSessionId": [place.event(content_session_id=long)],
        "": [place.event(payload=deep), place.event(payload={"n": float("nan")}), place.event(metadata={"d": deep})],
    }

    for name, refused in wrong.items():
        for sent in refused:
            with pytest.raises(InvalidInput) as refusal:
                await place.record(sent)
            assert all(issue.startswith(f"{name}: ") for issue in refusal.value.issues)
    assert await place.stored() == []


async def test_times_as_early_and_as_late_as_can_be_are_kept(place: Place) -> None:
    recorded = [await place.record(place.event(occurred_at=at)) for at in (0, LATEST_TIME)]

    assert [each.event.occurred_at for each in recorded] == [0, LATEST_TIME]


async def test_a_batch_is_answered_in_its_order_with_a_job_each_in_a_session(place: Place) -> None:
    sent = [place.event(number, content_session_id=f"agent-{number % 3}") for number in range(30)]

    recorded = await place.ingest.record_many(place.principal, [*sent, sent[4]])

    assert [each.event.occurred_at for each in recorded] == [each.occurred_at for each in [*sent, sent[4]]]
    assert [each.duplicate for each in recorded] == [False] * 30 + [True]
    assert len({each.job.id for each in recorded if each.job}) == 30
    assert place.published.jobs == [each.job for each in recorded[:30]]


async def test_a_batch_of_no_session_has_one_job_and_two_batches_two(place: Place) -> None:
    one = await place.ingest.record_many(
        place.principal, [place.event(number, content_session_id=None) for number in range(3)]
    )
    two = await place.ingest.record_many(
        place.principal, [place.event(number, content_session_id=None) for number in range(3, 6)]
    )

    assert len({each.job for each in one}) == len({each.job for each in two}) == 1
    assert {each.job.kind for each in (*one, *two) if each.job} == {JobKind.EVENT_BATCH}
    assert one[0].job != two[0].job


async def test_an_empty_batch_and_one_of_501_are_refused(place: Place) -> None:
    for count in (0, 501):
        with pytest.raises(InvalidInput):
            await place.ingest.record_many(place.principal, [place.event(number) for number in range(count)])
    assert len(await place.ingest.record_many(place.principal, [place.event(n) for n in range(500)])) == 500


async def test_one_event_of_a_foreign_project_refuses_the_whole_batch(place: Place) -> None:
    theirs = await foreign_project(place)

    for project_id in (theirs.id, new_id()):
        with pytest.raises(Forbidden):
            await place.ingest.record_many(
                place.principal, [place.event(1), place.event(2, project_id=project_id), place.event(3)]
            )

    assert await place.stored() == []
    assert await count_sessions(place) == 0


async def test_one_event_of_a_foreign_session_refuses_the_whole_batch(place: Place) -> None:
    other = await place.accounts.project_at(place.principal, place_of_folder("/w/other"))
    theirs = await place.record(place.event(1, project_id=other.project_id))
    session_id = theirs.event.session_id

    for unknown in (session_id, new_id(), "\x00"):
        with pytest.raises(NotFound):
            await place.ingest.record_many(
                place.principal, [place.event(1), place.event(2, server_session_id=unknown, content_session_id=None)]
            )

    assert [event.id for event in await place.stored()] == [theirs.event.id]


async def test_an_event_may_name_its_session_by_our_id(place: Place) -> None:
    session, _ = await place.ingest.start_session(
        place.principal, SessionInput(place.scope.project_id, content_session_id="c", agent_type="reviewer")
    )

    recorded = await place.record(place.event(1, server_session_id=session.id, content_session_id=None))

    assert (recorded.event.session_id, recorded.event.seq) == (session.id, 1)
    assert recorded.event.content_session_id == "c"


async def test_a_remembered_session_that_was_removed_is_opened_again(place: Place) -> None:
    first = await place.record(place.event(1), generate=False)

    def remove(conn: Connection) -> None:
        conn.execute(agent_events.delete())
        conn.execute(server_sessions.delete())

    await place.database.tx(remove)
    second = await place.record(place.event(2), generate=False)

    assert second.event.seq == 1
    assert second.event.session_id != first.event.session_id
    with pytest.raises(NotFound):
        await place.record(place.event(3, server_session_id=first.event.session_id))


async def test_requests_that_wait_at_the_same_time_share_a_transaction(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    waiting = [asyncio.create_task(place.record(place.event(number))) for number in range(20)]
    await until_waiting(place, 20)

    gate.opened.set()
    recorded = await asyncio.gather(*waiting)

    assert gate.transactions == 1
    assert [each.event.occurred_at - AT for each in sorted(recorded, key=lambda each: each.event.seq or 0)] == list(
        range(20)
    )


async def test_what_is_too_much_to_wait_is_refused_and_nothing_of_it_is_stored(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    waiting = [asyncio.create_task(place.record(place.event(number))) for number in range(35)]
    await until_waiting(place, 35)

    with pytest.raises(Unavailable) as refusal:
        await place.ingest.record_many(place.principal, [place.event(number) for number in range(100, 106)])
    fits = asyncio.create_task(
        place.ingest.record_many(place.principal, [place.event(number) for number in range(200, 205)])
    )
    await until_waiting(place, 40)
    gate.opened.set()
    await asyncio.gather(*waiting, fits)

    assert refusal.value.retry_after_s == 1
    assert len(await place.stored()) == 40
    await place.record(place.event(300))


async def test_a_batch_larger_than_the_room_is_taken_when_nothing_waits(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    gate.opened.set()

    recorded = await place.ingest.record_many(place.principal, [place.event(number) for number in range(100)])

    assert len(recorded) == 100


async def test_a_request_cancelled_before_its_group_starts_is_never_written(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    in_group = asyncio.create_task(place.record(place.event(1)))
    await wait_until(lambda: gate.transactions)
    behind = [asyncio.create_task(place.record(place.event(number))) for number in (2, 3)]
    await until_waiting(place, 3)

    behind[0].cancel()
    gate.opened.set()
    await asyncio.gather(in_group, behind[1])

    assert behind[0].cancelled()
    assert [event.occurred_at - AT for event in await place.stored()] == [1, 3]


async def test_a_request_cancelled_after_its_group_started_is_stored_and_rung(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    cancelled = asyncio.create_task(place.record(place.event(1)))
    await wait_until(lambda: gate.transactions)
    kept = asyncio.create_task(place.record(place.event(2)))
    await until_waiting(place, 2)

    cancelled.cancel()
    gate.opened.set()
    await kept
    again = await place.record(place.event(1))

    assert again.duplicate
    assert again.job in place.published.jobs


async def test_a_bad_request_in_a_group_fails_alone(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    first = asyncio.create_task(place.record(place.event(1)))
    await wait_until(lambda: gate.transactions)
    removed = new_id()
    place.ingest._sessions.add(place.scope, removed, None)
    bad = asyncio.create_task(place.record(place.event(2, server_session_id=removed, content_session_id=None)))
    good = [asyncio.create_task(place.record(place.event(number))) for number in (3, 4)]
    await until_waiting(place, 4)

    gate.opened.set()
    await asyncio.gather(first, *good)

    with pytest.raises(NotFound):
        await bad
    assert [event.occurred_at - AT for event in await place.stored()] == [1, 3, 4]
    assert [event.seq for event in await place.stored()] == [1, 2, 3]


async def test_a_database_that_is_away_refuses_the_group_and_the_next_one_is_stored(gated: tuple[Gate, Place]) -> None:
    gate, place = gated
    gate.failures.append(StorageUnavailable("away"))
    refused = [asyncio.create_task(place.record(place.event(number))) for number in (1, 2)]
    await until_waiting(place, 2)

    gate.opened.set()
    answers = await asyncio.gather(*refused, return_exceptions=True)

    assert isinstance(answers[0], StorageUnavailable)
    assert len(await place.stored()) == sum(not isinstance(answer, BaseException) for answer in answers)
    assert not (await place.record(place.event(3))).duplicate


async def test_leaving_stores_and_answers_what_was_accepted(place: Place) -> None:
    async with build_ingest(place.database, place.accounts, place.published) as ingest:
        waiting = [
            asyncio.create_task(ingest.record(place.principal, place.event(number))) for number in range(CONCURRENT)
        ]
        # Each is accepted: it waits for its commit, or has it.
        await wait_until(lambda: ingest.waiting + sum(each.done() for each in waiting) == CONCURRENT)

    recorded = await asyncio.gather(*waiting)
    assert len({each.event.id for each in recorded}) == CONCURRENT
    assert len(place.published.jobs) == CONCURRENT
    with pytest.raises(Unavailable):
        await ingest.record(place.principal, place.event(99))


async def test_a_hook_is_stored_in_the_project_of_its_folder(place: Place) -> None:
    raw = {
        "session_id": "agent-7",
        "cwd": "/home/ada/tally",
        "hook_event_name": "PostToolUse",
        "tool_name": "Read",
        "tool_use_id": "toolu_9",
        "tool_input": {"file_path": "a.py"},
        "tool_response": {"type": "text"},
    }

    done = await place.tell(raw)
    again = await place.tell(raw)

    (recorded,) = done.recorded
    project = await place.accounts.find_project(place.principal, "tally")
    assert recorded.event.project_id == project.id
    assert (recorded.event.event_type, recorded.event.source_type) == ("tool_use", "hook")
    assert (recorded.event.source_adapter, recorded.event.content_session_id) == ("claude-code", "agent-7")
    assert recorded.job is not None
    assert recorded.job.tool_name == "Read"
    assert [each.duplicate for each in again.recorded] == [True]


async def test_a_batch_hook_repeats_what_its_single_hooks_said(place: Place) -> None:
    call = {"tool_name": "Read", "tool_use_id": "toolu_9", "tool_input": {"file_path": "a.py"}, "tool_response": "x"}
    common = {"session_id": "agent-7", "cwd": "/w/tally"}
    await place.tell({**common, **call, "hook_event_name": "PostToolUse"})

    done = await place.tell(
        {**common, "hook_event_name": "PostToolBatch", "tool_calls": [call, {**call, "tool_use_id": "toolu_10"}]},
    )

    assert [each.duplicate for each in done.recorded] == [True, False]


async def test_a_hook_that_is_no_event_says_why(place: Place) -> None:
    done = await place.tell(["no", "object"])

    assert done.recorded == []
    assert done.skipped == ("not_an_object",)


async def test_a_hook_sent_again_with_its_time_is_the_same_event(place: Place) -> None:
    raw = {"session_id": "agent-7", "cwd": "/w/tally", "hook_event_name": "UserPromptSubmit", "prompt": "add a test"}

    sent = [await place.tell(raw, at) for at in (AT, AT, AT + 1)]

    assert [done.recorded[0].duplicate for done in sent] == [False, True, False]


async def test_hooks_that_say_nothing_to_remember_have_no_job_and_the_last_ends_the_session(place: Place) -> None:
    common = {"session_id": "agent-7", "cwd": "/w/tally"}
    names = ("SessionStart", "PreCompact", "Notification", "Stop", "SessionEnd")

    done = [await place.tell({**common, "hook_event_name": name}) for name in names]

    kinds = [each.recorded[0].job.kind if each.recorded[0].job else None for each in done]
    assert kinds == [None, None, None, JobKind.SUMMARY, None]
    event = done[-1].recorded[0].event
    summary = place.published.jobs[-1]
    assert (summary.kind, summary.source_type, summary.source_id) == (JobKind.SUMMARY, "session", event.session_id)
    assert len(place.published.jobs) == 2


async def test_a_session_is_started_once_and_ended_once(place: Place) -> None:
    new = SessionInput(place.scope.project_id, content_session_id="c", external_session_id="x", metadata={"a": 1})

    (session, is_new), (again, is_new_again) = [
        await place.ingest.start_session(place.principal, new) for _ in range(2)
    ]
    ended = [await place.ingest.end_session(place.principal, place.scope, session.id) for _ in range(2)]

    assert (is_new, is_new_again, again) == (True, False, session)
    assert json.loads(session.metadata_json) == {"a": 1}
    assert ended[0] == ended[1]
    assert place.published.jobs == [ended[0].job]
    with pytest.raises(Forbidden):
        await place.ingest.start_session(place.principal, replace(new, project_id=new_id()))
    with pytest.raises(NotFound):
        await place.ingest.end_session(place.principal, place.scope, new_id())


async def test_a_summary_that_cannot_be_rung_is_said_to_be_deferred(place: Place) -> None:
    session, _ = await place.ingest.start_session(place.principal, SessionInput(place.scope.project_id))
    place.published.away = True

    ended = await place.ingest.end_session(place.principal, place.scope, session.id)

    assert ended.deferred


async def test_a_key_of_another_team_can_store_nothing_here(place: Place) -> None:
    theirs = await foreign_project(place)
    stranger = Principal(theirs.team_id, None, None, frozenset({KeyScope.ADMIN}))
    bound = Principal(theirs.team_id, theirs.id, None, frozenset({KeyScope.WRITE}))

    for principal in (stranger, bound):
        with pytest.raises(Forbidden):
            await place.ingest.record(principal, place.event(1))
    assert await place.stored() == []


async def test_a_turn_is_summed_up_behind_its_events(place: Place) -> None:
    first = await place.record(place.event(1))
    ended = await place.record(place.event(2, event_type="Stop", payload={"last_assistant_message": "done"}))

    assert ended.event.event_type == turns.TURN_END
    assert ended.job is not None
    assert ended.job.kind is JobKind.SUMMARY
    assert (first.event.seq, ended.job.seq) == (1, 2)


async def count_sessions(place: Place) -> int:
    return len(await place.database.read(lambda conn: conn.execute(select(server_sessions.c.id)).all()))
