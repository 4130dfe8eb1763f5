"""The lane to a model provider: whether calls may be made, and why not."""

from dataclasses import dataclass
from enum import StrEnum


class LaneCondition(StrEnum):
    """Whether a provider takes calls. All but `OPEN` end by themselves at `until`, when one call is let through."""

    OPEN = "open"
    PAUSED = "paused"
    """It asked for a pause: a rate limit with the time it takes."""
    DOWN = "down"
    """It failed several times in a row: overload, timeouts, server errors, no connection."""
    EXHAUSTED = "exhausted"
    """Quota or billing."""
    BAD_SETTINGS = "bad-settings"
    """The key is not taken, or there is no such model."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """How the lane to one provider is. `endpoint` is a host; `until` is in epoch milliseconds."""

    provider: str
    endpoint: str
    model: str | None = None
    condition: LaneCondition = LaneCondition.OPEN
    until: int | None = None
    reason: str | None = None
