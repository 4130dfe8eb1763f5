"""What stands in an answer, whatever its form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in an answer, before it is checked: raw notes or raw summaries, or an explicit skip.

    `is_cut`: the answer ends in its middle. `echoes` counts blocks that only repeat what was given. `error` is an
    error object that an endpoint put in the place of an answer.
    """

    notes: tuple[Mapping[str, Any], ...] = ()
    summaries: tuple[Mapping[str, Any], ...] = ()
    skip_reason: str | None = None
    is_cut: bool = False
    echoes: int = 0
    error: Mapping[str, Any] | None = None
