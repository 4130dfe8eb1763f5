"""Random operations on an engine and on a model of it; after each step the two must agree."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from onlooker.domain.errors import ClaimLost
from onlooker.queue.contract import Claim, Lane, Message, QueueEngine
from queue_model import QueueModel
from queue_stores import SqlStore, Store

T = TypeVar("T")

LANES = [Lane.session("one"), Lane.session("two"), Lane.kind("shared")]
HOUR_MS = 3_600_000

lanes = st.sampled_from(LANES)
some_lanes = st.none() | st.lists(lanes, min_size=1, max_size=2, unique=True)
ids = st.sampled_from("abc")
# Multiples of ten seconds: what is due by the model is due, and what is not is far from it.
delays = st.sampled_from([0, 20_000, 60_000])
times = st.sampled_from([10_000, 20_000, 60_000, 90_000, 13 * HOUR_MS])
engines = st.integers(0, 1)
any_claim = st.integers(0, 5)


class Rig:
    """A store with two engines, used for many runs one after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._runner = asyncio.Runner()
        self._stacks = [AsyncExitStack(), AsyncExitStack()]
        self.engines: list[QueueEngine] = [self.run(self._open(stack)) for stack in self._stacks]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _open(self, stack: AsyncExitStack) -> QueueEngine:
        # It looks at the time with each claim, so that no answer depends on when it last did.
        return await stack.enter_async_context(self.store.engine(look_ms=0))

    def reopen(self, number: int) -> None:
        """Close an engine and open another in its place."""
        self.run(self._stacks[number].aclose())
        self.engines[number] = self.run(self._open(self._stacks[number]))

    def close(self) -> None:
        for stack in self._stacks:
            self.run(stack.aclose())
        self.run(self.store.close())
        self._runner.close()


@pytest.fixture
def rig(new_store: Store) -> Iterator[Rig]:
    rig = Rig(SqlStore(new_store.url, shared=True) if isinstance(new_store, SqlStore) else new_store)
    yield rig
    rig.close()


class QueueMachine(RuleBasedStateMachine):
    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.rig.run(self.rig.store.empty())
        self.model = QueueModel()
        self.claims: list[Claim] = []

    @rule(engine=engines, lane=lanes, message_id=ids, delay=delays, replace=st.booleans())
    def enqueue(self, engine: int, lane: Lane, message_id: str, delay: int, replace: bool) -> None:
        told = self.rig.run(
            self.rig.engines[engine].enqueue(
                lane, Message(message_id, message_id), delay_ms=delay, replace_finished=replace
            )
        )
        assert told == self.model.enqueue(lane, message_id, delay, replace=replace)

    @precondition(lambda self: any(self.model.lanes.values()))
    @rule(engine=engines, number=any_claim, delay=delays)
    def ring_and_claim(self, engine: int, number: int, delay: int) -> None:
        """The outbox rings what is there already, which brings forward what is delayed."""
        there = [(lane, item.id) for lane, items in self.model.lanes.items() for item in items]
        lane, message_id = there[number % len(there)]
        self.enqueue(engine, lane, message_id, delay, replace=True)
        self.claim(engine, [lane])

    @rule(engine=engines, lane=lanes, delay=delays)
    def claim_and_release(self, engine: int, lane: Lane, delay: int) -> None:
        before = len(self.claims)
        self.claim(engine, [lane])
        if len(self.claims) > before:
            self.release(engine, 0, delay)

    @rule(engine=engines, entries=st.lists(st.tuples(lanes, ids), max_size=6), replace=st.booleans())
    def enqueue_many(self, engine: int, entries: list[tuple[Lane, str]], replace: bool) -> None:
        messages = [(lane, Message(message_id, message_id)) for lane, message_id in entries]
        told = self.rig.run(self.rig.engines[engine].enqueue_many(messages, replace_finished=replace))
        # Of the same id twice in one call the second finds the first waiting, whatever lies between.
        first = list(dict.fromkeys(entries))
        again = [entry for place, entry in enumerate(entries) if entry in entries[:place]]
        assert told == sum(self.model.enqueue(*entry, 0, replace=replace) for entry in first + again)

    @rule(engine=engines, wanted=some_lanes)
    def claim(self, engine: int, wanted: list[Lane] | None) -> None:
        self._compare_claim(engine, wanted, self.rig.run(self.rig.engines[engine].claim(wait_s=0, lanes=wanted)))

    def _compare_claim(self, engine: int, wanted: list[Lane] | None, claim: Claim | None) -> None:
        expected = self.model.next_item(wanted)
        if claim is None or expected is None:
            assert claim is None
            assert expected is None
            return
        lane, item = expected
        self.model.claimed(item, claim, engine)
        assert (claim.lane, claim.message.id, claim.attempt) == (lane, item.id, item.attempt)
        self.claims = [claim, *self.claims][:6]

    def _claim(self, number: int) -> Claim:
        return self.claims[number % len(self.claims)]

    @precondition(lambda self: self.claims)
    @rule(engine=engines, number=any_claim)
    def confirm(self, engine: int, number: int) -> None:
        claim = self._claim(number)
        told = self.rig.run(self.rig.engines[engine].confirm(claim))
        assert told in self.model.may_hold(claim)
        if told:
            self.model.ended(claim, dead=False)

    @precondition(lambda self: self.claims)
    @rule(engine=engines, number=any_claim)
    def confirm_and_claim(self, engine: int, number: int) -> None:
        claim = self._claim(number)
        told, following = self.rig.run(self.rig.engines[engine].confirm_and_claim(claim, wait_s=0))
        assert told in self.model.may_hold(claim)
        if told:
            self.model.ended(claim, dead=False)
        self._compare_claim(engine, None, following)

    @precondition(lambda self: self.claims)
    @rule(engine=engines, number=any_claim)
    def fail(self, engine: int, number: int) -> None:
        claim = self._claim(number)
        told = self.rig.run(self.rig.engines[engine].fail(claim, "it is broken"))
        assert told in self.model.may_hold(claim)
        if told:
            self.model.ended(claim, dead=True)

    @precondition(lambda self: self.claims)
    @rule(engine=engines, number=any_claim, delay=delays)
    def release(self, engine: int, number: int, delay: int) -> None:
        claim = self._claim(number)
        told = self.rig.run(self.rig.engines[engine].release(claim, delay_ms=delay))
        assert told in self.model.may_hold(claim)
        if told:
            self.model.released(claim, delay)

    @precondition(lambda self: self.claims)
    @rule(engine=engines, number=any_claim)
    def extend(self, engine: int, number: int) -> None:
        claim = self._claim(number)
        try:
            self.rig.run(self.rig.engines[engine].extend(claim))
        except ClaimLost:
            assert False in self.model.may_hold(claim)
        else:
            assert True in self.model.may_hold(claim)
            self.model.extended(claim)

    @rule(engine=engines, lane=lanes, what=st.sampled_from(["reset", "clear", "close", "crash"]))
    def disturb(self, engine: int, lane: Lane, what: str) -> None:
        if what == "reset":
            assert self.rig.run(self.rig.engines[engine].reset(lane)) in self.model.reset(lane)
        elif what == "clear":
            assert self.rig.run(self.rig.engines[engine].clear(lane)) == self.model.clear(lane)
        elif what == "close":
            self.rig.reopen(engine)
            self.model.close(engine)
        else:
            # The holders die: they forget their claims, and nobody is told.
            self.claims = []

    @rule(ms=times)
    def time_passes(self, ms: int) -> None:
        self.rig.run(self.rig.store.pass_time(ms))
        self.model.now += ms

    @invariant()
    def what_there_is_agrees(self) -> None:
        *peeked, depth = self.rig.run(self._look())
        for lane, told in zip(LANES, peeked, strict=True):
            assert [pending.type for pending in told] == [item.id for item in self.model.of(lane)]
        assert depth.pending == sum(map(len, self.model.lanes.values()))
        assert depth.lanes == sum(map(bool, self.model.lanes.values()))
        failed = depth.sessions.failed + sum(kind.failed for kind in depth.kinds.values())
        assert failed in self.model.failures_remembered()

    async def _look(self) -> tuple[Any, ...]:
        engine = self.rig.engines[0]
        return tuple(await asyncio.gather(*(engine.peek(lane) for lane in LANES), engine.depth()))


def test_an_engine_does_what_the_model_does(rig: Rig) -> None:
    machine = type("Machine", (QueueMachine,), {"rig": rig})
    runs = 25 if rig.store.spec.find("postgresql:") > 0 else 80
    run_state_machine_as_test(machine, settings=settings(settings(), max_examples=runs, stateful_step_count=30))
