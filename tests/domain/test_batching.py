"""Which jobs go into one call, and when a session is waited for."""

from dataclasses import replace
from typing import Any

from onlooker.domain.batching import Batching, GenerationPolicy, Settling, choose_run
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Job, Scope
from onlooker.storage.new_jobs import Source, new_job

SCOPE = Scope("team", "project")
NOW = 1_790_000_000_000
BATCH = Batching(GenerationPolicy.BATCH, longest_run=4, input_budget=1_000, debounce_ms=2_000)


def job(seq: int, *, kind: JobKind = JobKind.EVENT, age_ms: int = 60_000, size: int = 30, **given: Any) -> Job:
    made = new_job(
        Source(kind, "event", f"e{seq}"), SCOPE, session_id="s", seq=seq, max_attempts=5, now=NOW - age_ms,
        source_bytes=size,
    )  # fmt: skip
    return made._replace(**given)


def run_of(live: list[Job], batching: Batching = BATCH) -> list[int] | int:
    """The places of the chosen run, or how long to wait."""
    chosen = choose_run(live, batching, NOW)
    return chosen.delay_ms if isinstance(chosen, Settling) else [each.seq or 0 for each in chosen]


def test_what_waits_goes_into_one_call() -> None:
    assert run_of([job(1), job(2), job(3)]) == [1, 2, 3]


def test_a_run_ends_at_its_count() -> None:
    assert run_of([job(n, age_ms=0) for n in range(1, 6)]) == [1, 2, 3, 4]


def test_a_run_ends_before_it_is_too_big_and_has_one_event_at_least() -> None:
    assert run_of([job(1, size=1_500), job(2, size=1_600), job(3)]) == [1]
    assert run_of([job(1, size=10**6, age_ms=0), job(2)]) == [1]


def test_a_long_event_counts_for_what_a_prompt_leaves_of_it() -> None:
    roomy = replace(BATCH, input_budget=3_100)
    assert run_of([job(1, size=10**6), job(2, size=10**6), job(3)], roomy) == [1, 2, 3]


def test_a_session_in_which_something_has_just_happened_is_waited_for() -> None:
    assert run_of([job(1, age_ms=1_500), job(2, age_ms=500)]) == 1_500


def test_a_session_that_never_pauses_is_not_waited_for_longer_than_five_debounces() -> None:
    assert run_of([job(1, age_ms=9_900), job(2, age_ms=0)]) == 100
    assert run_of([job(1, age_ms=10_000), job(2, age_ms=0)]) == [1, 2]


def test_the_end_of_a_turn_is_not_waited_for() -> None:
    assert run_of([job(1, age_ms=0), job(2, kind=JobKind.SUMMARY, age_ms=0)]) == [1]


def test_what_is_of_another_key_or_was_tried_or_is_not_due_ends_a_run() -> None:
    for other in ({"api_key_id": "k"}, {"attempts": 1}, {"next_attempt_at": NOW + 1}):
        assert run_of([job(1, age_ms=0), job(2, **other), job(3)]) == [1]


def test_what_was_tried_before_is_tried_alone() -> None:
    assert run_of([job(1, attempts=1, age_ms=0), job(2)]) == [1]


def test_per_event_takes_one_at_once() -> None:
    assert run_of([job(1, age_ms=0), job(2)], replace(BATCH, policy=GenerationPolicy.PER_EVENT)) == [1]


def test_end_of_turn_waits_for_the_end_or_until_the_turn_is_given_up() -> None:
    patient = replace(BATCH, policy=GenerationPolicy.END_OF_TURN)
    assert run_of([job(1), job(2)], patient) == 540_000
    assert run_of([job(1), job(2), job(3, kind=JobKind.SUMMARY)], patient) == [1, 2]
    assert run_of([job(1, age_ms=700_000)], patient) == [1]


def test_a_clock_that_is_far_off_makes_nobody_wait_for_it() -> None:
    assert run_of([job(1, age_ms=-3_600_000)]) == [1]
    assert run_of([job(1, age_ms=-100)]) == 2_100
