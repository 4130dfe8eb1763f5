"""The protocol holds in every scenario, and each of its rules is needed: without it the model shows the hole.

`pytest -rP tests/protocol` prints the size of each walk and, for each rule that is switched off, the shortest way to
what then goes wrong, one sentence a step.
"""

import sys
from dataclasses import fields, replace
from functools import cache

import pytest

from onlooker.domain.jobs import JobStatus, may_become
from protocol.invariants import Hole
from protocol.rules import Rules
from protocol.search import Verdict, walk
from protocol.state import ABSENT, Budget, Kind, Scenario

EVENT, SUMMARY, LONE = Kind.EVENT, Kind.SUMMARY, Kind.LONE
ONE, TWO, THREE = (EVENT,), (EVENT, EVENT), (EVENT, EVENT, EVENT)

SCENARIOS = {
    "one job and any three disturbances": Scenario(
        kinds=ONE,
        budget=Budget(crash=2, pause=2, lost=2, wipe=2, reply=2, failure=2, cancel=1, retry=1, drain=1, total=3),
    ),
    "two events, and two crashes, pauses or losses": Scenario(
        kinds=TWO, budget=Budget(crash=2, pause=2, lost=2, wipe=2, total=2)
    ),
    "three events, and a crash, a pause or a loss": Scenario(
        kinds=THREE, budget=Budget(crash=1, pause=1, wipe=1, total=1)
    ),
    "two events, a failing provider and an operator": Scenario(
        kinds=TWO, budget=Budget(failure=1, cancel=1, retry=1, total=3)
    ),
    "two events and two lost replies, failures or drains": Scenario(
        kinds=TWO, budget=Budget(reply=2, failure=2, drain=2, retry=1, total=2)
    ),
    "a batch, a crash or a pause, and an operator": Scenario(
        kinds=TWO, batches=True, budget=Budget(crash=1, pause=1, cancel=1, retry=1, total=2)
    ),
    "a batch, a pause, a lost reply and a failure": Scenario(
        kinds=TWO, batches=True, budget=Budget(pause=1, reply=1, failure=1, total=2)
    ),
    "a summary behind the batch of its turn": Scenario(
        kinds=(EVENT, EVENT, SUMMARY), batches=True, budget=Budget(crash=1, cancel=1, total=1)
    ),
    "two keys, of which one is revoked, and an event that always fails": Scenario(
        kinds=TWO,
        batches=True,
        keys="ab",
        poison=frozenset({1}),
        budget=Budget(crash=1, retry=1, revoke=1, total=2),
    ),
    "a job with no session beside an event": Scenario(
        kinds=(EVENT, LONE), budget=Budget(crash=1, pause=1, wipe=1, total=2)
    ),
    "a job with no session and any three disturbances": Scenario(
        kinds=(LONE,),
        budget=Budget(crash=2, pause=1, lost=1, wipe=1, reply=1, failure=1, cancel=1, retry=1, drain=1, total=3),
    ),
}

OPERATED = Scenario(kinds=TWO, budget=Budget(wipe=1, cancel=1, retry=1, total=3))
CANCELLED_BATCH = Scenario(kinds=TWO, batches=True, budget=Budget(cancel=1, total=1))
FAILING = Scenario(kinds=TWO, budget=Budget(failure=1, total=1))
FAILING_AND_RETRIED = Scenario(kinds=ONE, budget=Budget(failure=1, retry=1, total=2))
BAD_SECOND = Scenario(kinds=TWO, batches=True, poison=frozenset({1}), budget=Budget())
STOPPED_TWICE = Scenario(kinds=ONE, budget=Budget(drain=2, total=2))

BROKEN = {
    "r1_lock": (Hole.ORDER, Scenario(kinds=TWO, budget=Budget())),
    "r2_head": (Hole.ORDER, Scenario(kinds=TWO, budget=Budget())),
    "r3_one_step": (Hole.TWO, OPERATED),
    "r3_others": (Hole.TWO, OPERATED),
    "r4_cap": (Hole.CAP, Scenario(kinds=ONE, budget=Budget(crash=3, total=3))),
    "r5_fence": (Hole.TWICE, Scenario(kinds=ONE, budget=Budget(pause=1, total=1))),
    "r5_status": (Hole.TWICE, Scenario(kinds=ONE, budget=Budget(reply=1, total=1))),
    "r5_read_again": (Hole.INNOCENT, Scenario(kinds=ONE, budget=Budget(reply=2, total=2))),
    "r6_all_rows": (Hole.TAINTED, CANCELLED_BATCH),
    "r6_contiguous": (Hole.ORDER, Scenario(kinds=(EVENT, SUMMARY, EVENT), batches=True, budget=Budget())),
    "r6_one_key": (
        Hole.REVOKED,
        Scenario(kinds=TWO, batches=True, keys="ab", budget=Budget(revoke=1, total=1)),
    ),
    "r6_give_back": (Hole.ASLEEP, CANCELLED_BATCH),
    "r6_singly": (Hole.INNOCENT, BAD_SECOND),
    "r6_joint_end": (Hole.INNOCENT, BAD_SECOND),
    "r7_confirm_first": (Hole.ASLEEP, Scenario(kinds=(LONE,), budget=Budget(cancel=1, retry=1, total=2))),
    "r7_ring": (Hole.ASLEEP, FAILING),
    "r7_release": (Hole.ASLEEP, Scenario(kinds=TWO, budget=Budget(cancel=1, total=1))),
    "r7_look_after_delay": (Hole.ASLEEP, FAILING_AND_RETRIED),
    "r8_pull": (Hole.ASLEEP, FAILING_AND_RETRIED),
    "r9_park": (Hole.SPINS, FAILING),
    "r9_ring": (Hole.ASLEEP, Scenario(kinds=ONE, budget=Budget(cancel=1, retry=1, total=2))),
    "r10_sweep": (Hole.STUCK, Scenario(kinds=ONE, budget=Budget(lost=1, total=1))),
    "r10_lone": (Hole.STUCK, Scenario(kinds=(LONE,), budget=Budget(lost=1, total=1))),
    "r11_lease_only": (Hole.INNOCENT, Scenario(kinds=ONE, budget=Budget(wipe=2, total=2))),
    "r12_row_first": (Hole.ASLEEP, Scenario(kinds=ONE, budget=Budget(drain=1, total=1))),
    "r12_attempt": (Hole.INNOCENT, STOPPED_TWICE),
    "r13_uncapped": (Hole.ASLEEP, STOPPED_TWICE),
}
"""For each switch, what the model finds without it, and the smallest scenario in which it does."""


@cache
def kept(scenario: Scenario) -> Verdict:
    """What the walk through a scenario sees when all rules are kept."""
    return walk(scenario, Rules())


@pytest.mark.parametrize("name", SCENARIOS)
def test_with_all_rules_nothing_is_lost_doubled_out_of_order_stuck_or_spinning(name: str) -> None:
    verdict = kept(SCENARIOS[name])

    assert verdict.finding is None, str(verdict.finding)
    among_rows = {(JobStatus(old), JobStatus(new)) for old, new in verdict.changes if old != ABSENT}
    assert {change for change in among_rows if not may_become(*change)} == set()
    sys.stdout.write(f"{name}: {verdict.states:,} states, {verdict.moves:,} moves\n")


@pytest.mark.parametrize("switch", BROKEN)
def test_without_a_rule_the_model_shows_the_hole_that_it_closes(switch: str) -> None:
    hole, scenario = BROKEN[switch]

    finding = walk(scenario, replace(Rules(), **{switch: False})).finding

    assert finding is not None
    assert finding.hole is hole, str(finding)
    assert kept(scenario).finding is None, "the scenario has the hole even with the rule"
    sys.stdout.write(f"without {switch}, {finding}\n")


def test_every_rule_has_a_switch_and_every_switch_a_test() -> None:
    switches = [field.name for field in fields(Rules)]

    assert list(BROKEN) == switches
    assert {switch.split("_")[0] for switch in switches} == {f"r{number}" for number in range(1, 14)}


def test_every_promise_is_one_that_some_broken_rule_breaks() -> None:
    assert {hole for hole, _ in BROKEN.values()} == set(Hole)


def test_a_walk_sees_jobs_come_to_every_end() -> None:
    changes = kept(SCENARIOS["one job and any three disturbances"]).changes

    assert {new for _, new in changes} == set(JobStatus)


def test_a_hole_is_told_in_sentences_with_the_same_worker_under_the_same_name() -> None:
    finding = walk(BROKEN["r5_fence"][1], Rules(r5_fence=False)).finding

    assert finding is not None
    assert finding.steps == (
        "event 1 is ingested",
        "the message of event 1 is sent",
        "worker A claims the message of event 1",
        "worker A takes event 1",
        "worker A has the answer for event 1",
        "worker A stands still",
        "the lease of event 1 is over",
        "the claim of the message of event 1 is over",
        "worker B claims the message of event 1",
        "worker B takes event 1",
        "worker B has the answer for event 1",
        "worker B stores the answer for event 1 and completes event 1",
        "worker A wakes",
        "worker A stores the answer for event 1 and completes event 1",
    )
