"""What holds for every observation, whatever the events: bounds, sources, no copies, no errors."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Draft, Event
from onlooker.providers.rules import RulesProvider
from providers.happened import answer_of, edited, notes_of, ran, recorded_events, stored, used, wrote

CONCEPTS = {
    "how-it-works", "problem-solution", "gotcha", "what-changed", "why-it-exists", "pattern", "trade-off",
}  # fmt: skip
RUN = RulesProvider.longest_run


def notes_in_runs(events: Sequence[Event], run: int = RUN) -> list[tuple[Sequence[Event], Draft]]:
    parts = [events[start : start + run] for start in range(0, len(events), run)]
    return [(part, note) for part in parts for note in notes_of(*part)]


def is_within_bounds(note: Draft, events: int) -> bool:
    return (
        0 < len(note.title) <= 100
        and len(note.narrative) <= 400
        and len(note.facts) <= 6
        and all(0 < len(fact) <= 200 for fact in note.facts)
        and set(note.concepts) <= CONCEPTS
        and len(note.sources) > 0
        and all(0 <= index < events for index in note.sources)
    )


def test_the_recorded_session_gives_a_readable_number_of_observations() -> None:
    events = recorded_events()
    assert 15 <= len(notes_in_runs(events)) <= 80
    assert len(notes_in_runs(events, run=1)) < len(events)


@pytest.mark.parametrize("run", [1, RUN])
def test_every_observation_of_the_recorded_session_keeps_the_bounds(run: int) -> None:
    for events, note in notes_in_runs(recorded_events(), run):
        assert is_within_bounds(note, len(events)), note


@pytest.mark.parametrize(
    "title",
    [
        "tests/test_rounding.py: new file with RoundingTest, test_half_a_cent_goes_up…",
        "python3 -m unittest: 2 of 7 tests failed: AssertionError: '31.17' != '31.18'",
        "python3 -m tally sample/phone.txt: decimal.InvalidOperation: [<class 'decimal.ConversionSyntax'>]",
        "Commit: Round each share to the cent, half up, as the bank does",
        "tally/receipt.py: new file with Receipt",
        "tally/__init__.py: 0.1.0 became 0.2.0",
    ],
)
def test_the_recorded_session_is_found_by_what_a_developer_would_look_for(title: str) -> None:
    assert title in [note.title for _, note in notes_in_runs(recorded_events())]


def test_the_causes_in_the_recorded_session_stand_in_its_observations() -> None:
    text = "\n".join(note.content for _, note in notes_in_runs(recorded_events()))
    for words in ("`float` became `Decimal`", "decimal.DivisionByZero", "Half cents", "`1.204` is refused"):
        assert words in text


@pytest.mark.parametrize("run", [1, RUN])
def test_no_observation_copies_a_file(run: int) -> None:
    for events, note in notes_in_runs(recorded_events(), run):
        for event in events:
            given_input = json.loads(event.payload_json).get("tool_input", {})
            for content in (given_input.get("content"), given_input.get("new_string")):
                lines = [line for line in (content or "").splitlines() if len(line.strip()) > 20]
                copied = [line for line in lines if line.strip() in note.content]
                assert len(copied) <= 2, note


def test_the_same_events_give_the_same_drafts() -> None:
    events = recorded_events()[:RUN]
    assert notes_of(*events) == notes_of(*events)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    "file_path content old_string new_string edits command description pattern todos plan query url prompt input "
    "stdout stderr file filenames structuredPatch originalFile answers questions output type".split()
)
TEXTS = st.sampled_from(
    ["def f():\n  x(1)\n", "*** Begin Patch\n@@\n+a", "git commit -m 'x'", "Ran 2 tests in 1s\n\nOK"]
)
LOOSE = JSON | st.dictionaries(NAMES, JSON | TEXTS, max_size=6)
TOOLS = st.sampled_from(
    "Bash Edit MultiEdit Write Read Grep Glob Task TodoWrite mcp__a__b AskUserQuestion ExitPlanMode WebSearch".split()
)
PAYLOADS = st.fixed_dictionaries(
    {
        "tool_name": TOOLS | JSON,
        "tool_input": LOOSE,
    },
    optional={"tool_response": LOOSE, "error": JSON, "cwd": JSON, "hook_event_name": st.just("PostToolUse") | JSON},
)


@given(st.lists(PAYLOADS | JSON, max_size=5), st.sampled_from(["tool_use", "user_prompt", "turn_end", "other"]))
def test_wrong_types_anywhere_raise_nothing(payloads: list[Any], event_type: str) -> None:
    events = [stored(event_type, payload) for payload in payloads] + [stored(event_type, "{not json")]
    for kind in (JobKind.EVENT, JobKind.SUMMARY):
        for note in answer_of(RulesProvider(), events, kind).drafts:
            assert is_within_bounds(note, len(events)), note


def test_what_a_database_refuses_is_in_no_observation() -> None:
    nasty = "a\x00b\ud800c\x1b[31md"
    notes = notes_of(
        ran(f"make {nasty}", f"total {nasty}"),
        edited(f"src/{nasty}.py", "x = 1", f"x = '{nasty}'"),
        used("mcp__a__b", {"x": nasty}, nasty),
    )
    assert len(notes) == 3
    for note in notes:
        text = "".join((note.content, *note.files_modified))
        assert not any(c in text for c in "\x00\x1b\ud800")


@pytest.mark.parametrize(
    "event",
    [
        ran("make", "error: x " * 30_000),
        ran("'\"" * 100_000, "x\n" * 100_000),
        ran("a=b " * 60_000, "1 failed, " * 20_000),
        wrote("big.py", "def f():\n    return g(1)\n" * 10_000),
        wrote("wide.js", "const a = " + "(" * 200_000),
        edited("moved.py", "a = 1\nb = 2\n" * 10_000, "b = 2\na = 1\n" * 10_000),
    ],
)
def test_the_largest_payload_takes_no_more_than_a_moment(event: Event) -> None:
    began = time.process_time()
    notes = notes_of(event)
    assert time.process_time() - began < 1.0
    assert all(is_within_bounds(note, 1) for note in notes)
