"""How the lanes to the chosen providers are, for whoever asks: what is chosen, and what workers have posted."""

from collections.abc import Sequence

from onlooker.domain.lanes import LaneCondition, LaneState
from onlooker.settings import Settings
from onlooker.storage import provider_lanes
from onlooker.storage.database import Connection


def chosen_lanes(conn: Connection, settings: Settings) -> list[LaneState]:
    """The lane of each chosen provider, in the order in which they are tried; `rules` has one that is always open."""
    posted = provider_lanes.posted(conn)
    return [_lane_of(name, settings, posted) for name in settings.provider.split(",")]


def _lane_of(name: str, settings: Settings, posted: Sequence[LaneState]) -> LaneState:
    model = getattr(settings, f"{name}_model", None)
    closed = next((each for each in posted if each.provider == name and each.model == model), None)
    return closed or LaneState(name, "", model)


def told(lane: LaneState) -> str:
    """A lane in a few words, for people."""
    named = f"{lane.provider} ({lane.model})" if lane.model else lane.provider
    return named if lane.condition is LaneCondition.OPEN else f"{named} is not called: {lane.reason}"
