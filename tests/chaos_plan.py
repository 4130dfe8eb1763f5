"""What goes wrong, and when: drawn from a seed before anything starts, so that a run can be repeated."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SERVERS = ("server-0", "server-1")
WORKERS = ("worker-0", "worker-1", "worker-2")
PROCESSES = (*SERVERS, *WORKERS)
POSTGRES, REDIS = "postgres", "redis"

WRONG_CLOCK_S = 600
QUIET_BEFORE_S = 2.0
AT_WORK_S = 4.0
"""How long what was mended is left alone: to begin, and to do something."""

LONGEST_FAULT_S = 8.0
"""Longer than a lease of the run (see `chaos`), so that some end while their holder is frozen or gone."""


class Kind(StrEnum):
    KILL = "kill"
    STOP = "stop"
    FREEZE = "freeze"
    CUT = "cut"
    LOSE_COMMITS = "lose-commits"
    RESTART = "restart"
    CRASH = "crash"
    FLUSH = "flush"
    REWIND = "rewind"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with a process, with a server program, or with the connections to one.

    After `lasts_s` it is mended: what was killed is started, what was frozen goes on, what is rewound begins anew as it
    was before, as a replica does that takes over too late. `skew_s` is by how much the
    clock of a process that is started then is wrong.
    """

    at_s: float
    kind: Kind
    target: str
    lasts_s: float = 0
    skew_s: int = 0
    share: float = 0
    """Of the connections that are cut."""

    def __str__(self) -> str:
        more = [f"for {self.lasts_s:.1f} s"] if self.lasts_s else []
        more += [f"clock {self.skew_s:+d} s"] if self.skew_s else []
        more += [f"{self.share:.0%} of the connections"] if self.share else []
        return " ".join((f"{self.at_s:6.1f} s", self.kind, self.target, *more))


Choice = tuple[Kind, str, int]
"""What may be drawn, and how often against the others."""


def choices(*, with_redis: bool) -> list[Choice]:
    drawn = [(kind, target, weight) for kind, weight in ((Kind.KILL, 3), (Kind.FREEZE, 2)) for target in PROCESSES]
    drawn += [(Kind.STOP, target, 1) for target in PROCESSES]
    drawn += [(Kind.CUT, POSTGRES, 4), (Kind.LOSE_COMMITS, POSTGRES, 2)]
    drawn += [(Kind.RESTART, POSTGRES, 1), (Kind.CRASH, POSTGRES, 1), (Kind.FREEZE, POSTGRES, 1)]
    if with_redis:
        drawn += [(Kind.CUT, REDIS, 4), (Kind.FLUSH, REDIS, 2), (Kind.REWIND, REDIS, 2)]
        drawn += [(Kind.RESTART, REDIS, 1), (Kind.CRASH, REDIS, 1), (Kind.FREEZE, REDIS, 1)]
    return drawn


def plan(seed: int, seconds: float, *, every_s: float, with_redis: bool) -> list[Fault]:
    """The faults of a run, in order: each kind once as far as there is time, then as they are weighted.

    Nothing happens to a target that another fault has in its hands.
    """
    chance = random.Random(seed)  # noqa: S311 - a run that can be repeated, not a secret
    drawn = choices(with_redis=with_redis)
    first = _one_of_each(chance, drawn)
    free_at: dict[str, float] = {}
    faults: list[Fault] = []
    at_s = QUIET_BEFORE_S
    while (at_s := at_s + chance.uniform(0.2, 1.8) * every_s) < seconds:
        free = [choice for choice in first or drawn if free_at.get(choice[1], 0) <= at_s]
        if not free:
            continue
        kind, target, _ = choice = chance.choices(free, [weight for *_, weight in free])[0]
        if first:
            first.remove(choice)
        fault = _fault(chance, at_s, kind, target)
        free_at[target] = at_s + fault.lasts_s + (AT_WORK_S if fault.lasts_s else 0.0)
        faults.append(fault)
    return faults


def _one_of_each(chance: random.Random, drawn: Sequence[Choice]) -> list[Choice]:
    by_kind: dict[tuple[Kind, bool, str], list[Choice]] = {}
    for choice in drawn:
        kind, target, _ = choice
        of_process = target in PROCESSES
        by_kind.setdefault((kind, of_process, "" if of_process else target), []).append(choice)
    return [chance.choice(same) for same in by_kind.values()]


def _fault(chance: random.Random, at_s: float, kind: Kind, target: str) -> Fault:
    # Most faults are short; some outlast a lease.
    lasts_s = round(min(LONGEST_FAULT_S, chance.expovariate(1 / 2.5)), 2)
    skew_s = chance.choice([0, 0, -WRONG_CLOCK_S, WRONG_CLOCK_S])
    share = round(chance.choice([0.0, 0.3, 1.0]), 1)
    if kind in {Kind.KILL, Kind.STOP}:
        return Fault(at_s, kind, target, lasts_s, skew_s)
    if kind is Kind.CUT:
        return Fault(at_s, kind, target, share=share or 0.01)
    if kind is Kind.FLUSH:
        return Fault(at_s, kind, target)
    return Fault(at_s, kind, target, lasts_s)
