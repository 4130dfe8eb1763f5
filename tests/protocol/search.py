"""A breadth-first walk through every state of a scenario, and the shortest way to what must not be."""

import gc
from array import array
from dataclasses import dataclass
from itertools import pairwise

from protocol.invariants import Hole, asleep, broken, ended
from protocol.model import Model
from protocol.rules import Rules
from protocol.state import NOBODY, PROCESSING, Edge, Move, Scenario, State


@dataclass(frozen=True, slots=True)
class Finding:
    """A hole and the shortest way to it, one sentence a step."""

    hole: Hole
    steps: tuple[str, ...]

    def __str__(self) -> str:
        lines = (f"{number:3}. {step}" for number, step in enumerate(self.steps, 1))
        return "\n".join((f"{self.hole}:", *lines))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a walk saw: its size, the jobs' changes of status, and the first hole or none."""

    states: int
    moves: int
    changes: frozenset[tuple[str, str]]
    finding: Finding | None


def canonical(state: State) -> State:
    """Two workers are interchangeable: of a state and its mirror image one stands for both."""
    workers = state.workers
    if len(workers) < 2 or workers[0] <= workers[1]:
        return state
    mirror = {0: 1, 1: 0}
    return state._replace(
        jobs=tuple(row._replace(holder=mirror[row.holder]) if row.holder in mirror else row for row in state.jobs),
        lanes=tuple(
            tuple(
                message._replace(holder=mirror[message.holder]) if message.holder in mirror else message
                for message in lane
            )
            for lane in state.lanes
        ),
        workers=(workers[1], workers[0]),
    )


class Walk:
    """One walk: states by number in order of discovery, with the number each was found from."""

    def __init__(self, scenario: Scenario, rules: Rules, limit: int) -> None:
        self.model = Model(scenario, rules)
        self.limit = limit
        self.states: list[State] = []
        self.parents = array("l")
        self.number: dict[State, int] = {}
        self.moves = 0
        self.changes: set[tuple[str, str]] = set()
        self.sources = (array("l"), array("l"))
        self.targets = (array("l"), array("l"))

    def run(self) -> Verdict:
        """Walk until a hole is seen or all is. The whole graph is then asked for circles and dead ends."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            finding = self._explore() or self._spinning() or self._stuck()
        finally:
            if collecting:
                gc.enable()
        return Verdict(len(self.states), self.moves, frozenset(self.changes), finding)

    def _add(self, state: State, parent: int) -> int:
        known = self.number.setdefault(state, len(self.states))
        if known == len(self.states):
            self.states.append(state)
            self.parents.append(parent)
        return known

    def _explore(self) -> Finding | None:
        scenario, rows = self.model.scenario, self.model.rows
        self._add(self.model.start(), -1)
        at = 0
        while at < len(self.states):
            if at > self.limit:
                raise RuntimeError(f"more than {self.limit} states")
            state = self.states[at]
            busy = False
            for move in self.model.moves(state):
                self.moves += 1
                hole = broken(scenario, state, move)
                if hole is not None:
                    steps, names = self._told(at)
                    return Finding(hole, (*steps, sentence(move, names)))
                if move.state.jobs is not state.jobs:
                    self._note_changes(state, move.state)
                target = self._add(canonical(move.state), at)
                if move.edge <= Edge.TIME:
                    self.sources[move.edge].append(at)
                    self.targets[move.edge].append(target)
                    busy = busy or move.edge is Edge.PROGRAM
            if not busy and asleep(state, rows):
                return Finding(Hole.ASLEEP, self._way(at))
            at += 1
        return None

    def _note_changes(self, before: State, after: State) -> None:
        for old, new in zip(before.jobs, after.jobs, strict=True):
            if old.status != new.status or (new.status == PROCESSING and old.attempts != new.attempts):
                self.changes.add((old.status, new.status))

    def _spinning(self) -> Finding | None:
        """A circle of the program's own moves: what is left when states without a further such move are taken away."""
        degree = array("l", bytes(8 * len(self.states)))
        for source in self.sources[Edge.PROGRAM]:
            degree[source] += 1
        into = self._reverse((Edge.PROGRAM,))
        free = [state for state, count in enumerate(degree) if not count]
        while free:
            for source in into[free.pop()]:
                degree[source] -= 1
                if not degree[source]:
                    free.append(source)
        first = next((state for state, count in enumerate(degree) if count), None)
        return None if first is None else self._circle(first, degree)

    def _circle(self, first: int, degree: "array[int]") -> Finding:
        """The circle that a state leads into, from its state that is reached first."""

        def after(number: int) -> tuple[Move, int]:
            for move in self.model.moves(self.states[number]):
                target = self.number[canonical(move.state)]
                if move.edge is Edge.PROGRAM and degree[target]:
                    return move, target
            raise RuntimeError(f"state {number} leads into no circle")

        walked = [first]
        while (target := after(walked[-1])[1]) not in walked:
            walked.append(target)
        circle = walked[walked.index(target) :]
        at = min(circle)
        steps, names = self._told(at)
        for _ in circle:
            move, at = after(at)
            steps = (*steps, sentence(move, names))
            names = renamed(move, names)
        return Finding(Hole.SPINS, (*steps, "and so on"))

    def _stuck(self) -> Finding | None:
        """A state from which no way that is free of faults leads to rest."""
        into = self._reverse((Edge.PROGRAM, Edge.TIME))
        good = bytearray(len(self.states))
        reached = [number for number, state in enumerate(self.states) if ended(state)]
        for number in reached:
            good[number] = 1
        while reached:
            for source in into[reached.pop()]:
                if not good[source]:
                    good[source] = 1
                    reached.append(source)
        first = good.find(0)
        return None if first < 0 else Finding(Hole.STUCK, self._way(first))

    def _reverse(self, edges: tuple[Edge, ...]) -> list[list[int]]:
        into: list[list[int]] = [[] for _ in self.states]
        for edge in edges:
            for source, target in zip(self.sources[edge], self.targets[edge], strict=True):
                into[target].append(source)
        return into

    # The way to a state, told with steady names for the workers, though states are stored up to their mirror image.

    def _path(self, number: int) -> list[int]:
        path = [number]
        while self.parents[path[-1]] >= 0:
            path.append(self.parents[path[-1]])
        return path[::-1]

    def _told(self, number: int) -> tuple[tuple[str, ...], str]:
        names = "AB"
        steps: list[str] = []
        path = self._path(number)
        for source, target in pairwise(path):
            wanted = self.states[target]
            move = next(move for move in self.model.moves(self.states[source]) if canonical(move.state) == wanted)
            steps.append(sentence(move, names))
            names = renamed(move, names)
        return tuple(steps), names

    def _way(self, number: int) -> tuple[str, ...]:
        return self._told(number)[0]


def renamed(move: Move, names: str) -> str:
    """The workers' names after a move: mirrored where its state is stored as its mirror image."""
    return names if canonical(move.state) is move.state else names[::-1]


def sentence(move: Move, names: str) -> str:
    """What a move does, as a sentence."""
    return move.text if move.who == NOBODY else f"worker {names[move.who]} {move.text}"


def walk(scenario: Scenario, rules: Rules, limit: int = 2_000_000) -> Verdict:
    """Walk through a scenario under the rules. Raises RuntimeError where it has more states than the limit."""
    return Walk(scenario, rules, limit).run()
