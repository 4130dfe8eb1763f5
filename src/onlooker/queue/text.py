"""What a message may hold, whichever store keeps it."""

from onlooker.domain.errors import InvalidInput
from onlooker.queue.contract import Lane, Message


def require_storable(lane: Lane, message: Message) -> None:
    """Raises `InvalidInput` for what no store can keep, before it is in the way of other calls."""
    text = f"{lane.name}{message.id}{message.type}{message.tool_name or ''}{message.body}"
    if "\0" in text:
        raise InvalidInput("a message may hold no NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("a message may hold no lone surrogate") from error
