"""What a new session is told: what matters, once, marked, in a stable order and within its budget."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import update

from observed import new_event, new_scope
from onlooker.domain.models import Draft, NewObservation, ObservationKind, Scope
from onlooker.domain.privacy import strip_private
from onlooker.domain.tokens import estimate_tokens
from onlooker.host import new_id
from onlooker.services.session_context import LEAST_BUDGET, SessionContexts
from onlooker.storage import observations, recording, sessions
from onlooker.storage.database import Connection, Database
from onlooker.storage.tables import observations as note_rows

AT = 1_790_000_000_000
HOUR_MS = 3_600_000
SUMMARY = ObservationKind.SUMMARY
_numbers = count(1)


@dataclass
class Memory:
    """A project with notes."""

    database: Database
    scope: Scope
    contexts: SessionContexts = field(init=False)

    def __post_init__(self) -> None:
        self.contexts = SessionContexts(self.database)

    async def session(self, name: str, *prompts: str) -> str:
        """A session of that name with these prompts; our id of it."""
        asked = [
            new_event(self.scope, name, event_type="user_prompt", payload_json=f'{{"prompt":"{prompt}"}}')
            for prompt in prompts or ("begin",)
        ]
        await self.database.tx(lambda conn: recording.record_events(conn, asked, max_attempts=5))
        found = await self.database.read(lambda conn: sessions.find_by_content(conn, self.scope, name))
        assert found is not None
        return found.id

    async def note(
        self, kind: ObservationKind, title: str, *, at: int = 0, session: str | None = None, **more: Any
    ) -> str:
        """A note, `at` hours after the first."""
        draft = Draft(kind, title, **more)
        new = NewObservation(
            id=new_id(),
            draft=draft,
            generation_key=f"key-{next(_numbers)}",
            occurred_at=AT + at * HOUR_MS,
            created_at=AT,
            content=draft.content,
            session_id=session,
        )
        await self.database.tx(lambda conn: observations.store_observations(conn, self.scope, [new], AT))
        return new.id

    async def many(self, number: int) -> None:
        """Notes of all kinds over many files."""
        kinds = list(ObservationKind)

        def store(conn: Connection) -> None:
            new = []
            for n in range(number):
                draft = Draft(
                    kinds[n % len(kinds)],
                    f"Work {n} on the parser of part {n % 97}",
                    narrative="It now reads what the other side writes, with a test of each case. " * 3,
                    facts=(f"next_steps: look at part {n}", f"completed: part {n} passes"),
                    files_modified=(f"src/part_{n % 97}.py",),
                )
                new.append(
                    NewObservation(
                        id=new_id(), draft=draft, generation_key=f"m-{n}", occurred_at=AT + n, created_at=AT,
                        content=draft.content,
                    )
                )  # fmt: skip
            for start in range(0, number, 2_000):
                observations.store_observations(conn, self.scope, new[start : start + 2_000], AT)

        await self.database.tx(store)


@pytest_asyncio.fixture
async def memory(database: Database) -> Memory:
    return Memory(database, await new_scope(database))


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("- ")]


async def test_a_project_without_notes_has_nothing_to_tell(memory: Memory) -> None:
    made = await memory.contexts.of_project(memory.scope)
    assert (made.text, made.markdown, made.tokens, made.note_ids) == ("", "", 0, ())


async def test_what_is_open_what_was_done_and_what_was_decided_is_told_once_with_ids(memory: Memory) -> None:
    first, second = await memory.session("a"), await memory.session("b")
    await memory.note(SUMMARY, "Old turn", at=1, session=first, facts=("next_steps: nothing any more",))
    late = await memory.note(
        SUMMARY, "Round half cents", at=2, session=first, facts=("completed: rounding", "next_steps: test the report")
    )
    other = await memory.note(SUMMARY, "Speed", at=3, session=second, narrative="Twice as fast.")
    decided = await memory.note(ObservationKind.DECISION, "Decimal, not float", at=0, facts=("floats lose cents",))
    gotcha = await memory.note(ObservationKind.DISCOVERY, "Bank rounds up", at=1, concepts=("gotcha",))
    changed = await memory.note(ObservationKind.CHANGE, "Rounded", at=2, files_modified=("src/money.py",))

    made = await memory.contexts.of_project(memory.scope)

    lines = lines_of(made.text)
    assert [line for line in lines if "test the report" in line] == [lines[0]]
    assert late in lines[0]
    assert "Old turn" not in made.text
    assert "nothing any more" not in made.text
    assert [other in lines[1], late in lines[2]] == [True, True]
    assert [gotcha in lines[3], decided in lines[4]] == [True, True]
    assert lines[5] == f"- src/money.py: Rounded ({changed})"
    assert made.text == f"<onlooker-context>\n{made.markdown}\n</onlooker-context>"
    assert made.tokens == estimate_tokens(made.text)
    assert made.note_ids == (late, other, gotcha, decided, changed)
    assert made == await memory.contexts.of_project(memory.scope)


async def test_a_note_that_shares_the_line_of_its_file_is_among_those_told(memory: Memory) -> None:
    older = await memory.note(ObservationKind.CHANGE, "Rounded", at=1, files_modified=("src/money.py",))
    newer = await memory.note(ObservationKind.CHANGE, "Renamed", at=2, files_modified=("src/money.py",))
    made = await memory.contexts.of_project(memory.scope)
    assert lines_of(made.text) == [f"- src/money.py: Renamed; Rounded ({newer})"]
    assert made.note_ids == (newer, older)


async def test_what_is_hidden_or_superseded_is_not_told(memory: Memory) -> None:
    hidden = await memory.note(ObservationKind.DECISION, "Wrong one")
    older = await memory.note(ObservationKind.DECISION, "Older one")
    newer = await memory.note(ObservationKind.DECISION, "Newer one")
    await memory.database.tx(
        lambda conn: conn.execute(update(note_rows).where(note_rows.c.id == hidden).values(hidden=True))
    )
    await memory.database.tx(
        lambda conn: conn.execute(update(note_rows).where(note_rows.c.id == older).values(superseded_by=newer))
    )
    assert (await memory.contexts.of_project(memory.scope)).note_ids == (newer,)


@pytest.mark.parametrize("budget", [LEAST_BUDGET, 500, 2_000, 20_000])
async def test_no_text_costs_more_than_its_budget(memory: Memory, budget: int) -> None:
    await memory.many(600)
    await memory.note(ObservationKind.MANUAL, "長い題名" * 400, narrative="0a1b2c3d" * 500)

    made = await memory.contexts.of_project(memory.scope, budget=budget)

    assert made.tokens == estimate_tokens(made.text) <= budget
    assert len(set(lines_of(made.text))) == len(lines_of(made.text))
    if budget == 2_000:
        assert made.tokens > budget * 0.8


async def test_what_several_notes_say_alike_is_told_once(memory: Memory) -> None:
    for number in range(5):
        session = await memory.session(f"s{number}")
        facts = ("completed: rounding", "next_steps: test the report")
        await memory.note(SUMMARY, "Round half cents", at=number, session=session, facts=facts)
        await memory.note(ObservationKind.DECISION, "Decimal, not float", at=number, session=session)
    made = await memory.contexts.of_project(memory.scope)
    assert len(lines_of(made.text)) == 3


async def test_notes_of_no_other_part_are_told_last(memory: Memory) -> None:
    found = await memory.note(ObservationKind.DISCOVERY, "The bank rounds up")
    assert (await memory.contexts.of_project(memory.scope)).note_ids == (found,)
    decided = await memory.note(ObservationKind.DECISION, "Decimal, not float", at=-1)
    assert (await memory.contexts.of_project(memory.scope)).note_ids == (decided, found)


async def test_the_least_budget_has_room_for_a_note(memory: Memory) -> None:
    await memory.many(30)
    made = await memory.contexts.of_project(memory.scope, budget=LEAST_BUDGET)
    assert lines_of(made.text)


async def test_a_mark_inside_a_note_does_not_end_the_context(memory: Memory) -> None:
    await memory.note(ObservationKind.MANUAL, "x </onlooker-context> y <onlooker-context> z")
    made = await memory.contexts.of_project(memory.scope)
    assert made.text.count("onlooker-context>") == 2
    assert strip_private(f"before {made.text} after").split() == ["before", "after"]


async def test_a_compacted_session_is_told_what_it_did_and_was_asked(memory: Memory) -> None:
    own, other = await memory.session("a", "add a test", "now round"), await memory.session("b")
    done = await memory.note(SUMMARY, "Tests added", at=1, session=own, facts=("completed: two tests",))
    found = await memory.note(ObservationKind.BUGFIX, "Half cents", at=2, session=own)
    elsewhere = await memory.note(SUMMARY, "Other work", at=3, session=other)

    made = await memory.contexts.of_compacted(memory.scope, "a")

    assert [line[2:] for line in lines_of(made.text)[:2]] == ["now round", "add a test"]
    assert made.note_ids == (done, found, elsewhere)
    unknown = await memory.contexts.of_compacted(memory.scope, "nobody's")
    assert elsewhere in unknown.note_ids


async def test_another_projects_notes_are_not_told(memory: Memory) -> None:
    await memory.note(ObservationKind.DECISION, "Ours")
    stranger = Memory(memory.database, await new_scope(memory.database))
    assert (await stranger.contexts.of_project(stranger.scope)).text == ""
