"""What a queue is, in the fewest words: the model that engines are compared with.

Times are virtual milliseconds. A claim whose lease is over is neither here nor there until somebody claims: until
then its holder may still be told that it holds it, or not.
"""

from dataclasses import dataclass, field

from onlooker.queue.contract import LEASE_MS, RETENTION_MS, Claim, Lane


@dataclass
class Item:
    """An unfinished message."""

    id: str
    place: int
    due: int
    attempt: int = 0
    claim: Claim | None = None
    lease_until: int = 0
    holder: int = -1


@dataclass
class QueueModel:
    """Lanes of unfinished items in order, and the ids that are finished with the time they were."""

    lanes: dict[Lane, list[Item]] = field(default_factory=dict)
    finished: dict[tuple[Lane, str], int] = field(default_factory=dict)
    dead: dict[tuple[Lane, str], int] = field(default_factory=dict)
    now: int = 0
    places: int = 0

    def of(self, lane: Lane) -> list[Item]:
        return self.lanes.setdefault(lane, [])

    def enqueue(self, lane: Lane, message_id: str, delay: int, *, replace: bool) -> bool:
        due = self.now + delay if delay else 0
        item = next((item for item in self.of(lane) if item.id == message_id), None)
        if item is not None:
            if item.claim is None:
                item.due = min(item.due, due)
                self._pull_head(lane, due)
            return False
        finished_at = self.finished.get((lane, message_id))
        if finished_at is not None:
            forgotten = finished_at + RETENTION_MS <= self.now
            if not (replace or forgotten):
                return False
            del self.finished[lane, message_id]
            self.dead.pop((lane, message_id), None)
            self._pull_head(lane, due)
        self.places += 1
        self.of(lane).append(Item(message_id, self.places, due))
        return True

    def _pull_head(self, lane: Lane, due: int) -> None:
        if lane.exclusive and (items := self.of(lane)) and items[0].claim is None:
            items[0].due = min(items[0].due, due)

    def release_expired(self) -> None:
        for items in self.lanes.values():
            for item in items:
                if item.claim is not None and item.lease_until <= self.now:
                    self._put_back(item, 0)

    def next_item(self, lanes: list[Lane] | None) -> tuple[Lane, Item] | None:
        """What a claim must get."""
        self.release_expired()
        able = [
            (lane, item)
            for lane, items in self.lanes.items()
            if lanes is None or lane in lanes
            for item in (items[:1] if lane.exclusive else items)
            if item.claim is None and item.due <= self.now
        ]
        return min(able, key=lambda pair: pair[1].place, default=None)

    def claimed(self, item: Item, claim: Claim, holder: int) -> None:
        item.claim, item.holder = claim, holder
        item.attempt += 1
        item.due = 0
        item.lease_until = self.now + LEASE_MS

    def holding(self, claim: Claim) -> Item | None:
        return next((item for item in self.of(claim.lane) if item.claim == claim), None)

    def may_hold(self, claim: Claim) -> set[bool]:
        """The answers that are right when somebody uses this claim."""
        item = self.holding(claim)
        if item is None:
            return {False}
        return {True} if item.lease_until > self.now else {True, False}

    def extended(self, claim: Claim) -> None:
        item = self.holding(claim)
        assert item is not None
        item.lease_until = self.now + LEASE_MS

    def ended(self, claim: Claim, *, dead: bool) -> None:
        item = self.holding(claim)
        assert item is not None
        self.of(claim.lane).remove(item)
        self.finished[claim.lane, item.id] = self.now
        if dead:
            self.dead[claim.lane, item.id] = self.now

    def released(self, claim: Claim, delay: int) -> None:
        item = self.holding(claim)
        assert item is not None
        self._put_back(item, self.now + delay if delay else 0)

    def _put_back(self, item: Item, due: int) -> None:
        item.claim, item.holder, item.due = None, -1, due

    def failures_remembered(self) -> range:
        """How many dead letters there may be: those over the retention may be gone."""
        kept = sum(at + RETENTION_MS > self.now for at in self.dead.values())
        return range(kept, len(self.dead) + 1)

    def reset(self, lane: Lane) -> range:
        """Releases a lane's claims; how many an engine may say these were."""
        held = [item for item in self.of(lane) if item.claim is not None]
        surely = sum(item.lease_until > self.now for item in held)
        for item in held:
            self._put_back(item, 0)
        return range(surely, len(held) + 1)

    def close(self, holder: int) -> None:
        for items in self.lanes.values():
            for item in items:
                if item.claim is not None and item.holder == holder:
                    self._put_back(item, 0)

    def clear(self, lane: Lane) -> int:
        count = len(self.of(lane))
        self.of(lane).clear()
        return count
