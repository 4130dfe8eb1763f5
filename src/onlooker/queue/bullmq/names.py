"""How lanes, ids and messages are written on the wire, in BullMQ's words: queue names, job ids, job data.

BullMQ allows no `:` in either; an id must not read like one of the keys of its queue. What would is percent-encoded.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote, unquote

from onlooker.domain.errors import InvalidInput
from onlooker.queue.contract import Lane, Message

SESSION = "session."

QUEUE_KEYS = frozenset(
    "active wait waiting-children paused id delayed prioritized stalled-check completed failed stalled repeat limiter"
    " meta events pc marker de metrics".split()
)
"""The names that BullMQ gives to the keys of a queue, beside those of its jobs."""

HAS_TOOL, IS_BARE = "t", "b"
"""A message's flags: it has a tool, perhaps with an empty name; its body is empty, and its data was made up."""


def lane_name(lane: Lane) -> str:
    """The name of a lane's queue. Raises `InvalidInput` for a shared lane that is named like a session's."""
    if lane.exclusive != lane.name.startswith(SESSION):
        raise InvalidInput(f"a shared lane may not be named {SESSION}…")
    return _encoded(lane.name)


def lane_of(name: str) -> Lane:
    """The lane that has this name on the wire."""
    plain = unquote(name) if "%" in name else name
    return Lane(plain, plain.startswith(SESSION))


def job_id(message_id: str) -> str:
    """A message's id on the wire."""
    if message_id in QUEUE_KEYS:
        return f"%{ord(message_id[0]):02X}{message_id[1:]}"
    return _encoded(message_id) or "%"


def message_id(wire_id: str) -> str:
    """The id that stands on the wire as this."""
    if "%" not in wire_id:
        return wire_id
    return "" if wire_id == "%" else unquote(wire_id)


def job_data(message: Message) -> str:
    """A job's data: the message's body, else an object that tells workers of other makers the tool."""
    if message.body:
        return message.body
    return "{}" if message.tool_name is None else json.dumps({"toolName": message.tool_name}, ensure_ascii=False)


def job_note(message: Message, nonce: str) -> str:
    """The nonce by which a message's enqueue is known, and what the other fields do not tell: `NONCE|FLAGS|TOOL`."""
    has_tool, tool = ("", "") if message.tool_name is None else (HAS_TOOL, message.tool_name)
    return f"{nonce}|{has_tool}{'' if message.body else IS_BARE}|{tool}"


def message_of(told: Sequence[bytes]) -> Message:
    """The message of a job: its wire id, name, data and note, which is empty where another maker's tool added it.

    Such a tool may write what is no UTF-8: that is replaced, for nobody could refuse the job who cannot read it.
    """
    wire_id, name, data, note = [part.decode("utf-8", "replace") for part in told]
    _, _, told_of = note.partition("|")
    flags, _, tool = told_of.partition("|")
    return Message(message_id(wire_id), name, tool if HAS_TOOL in flags else None, "" if IS_BARE in flags else data)


def _encoded(text: str) -> str:
    if "%" not in text and ":" not in text:
        return text
    # Only what has a meaning on the wire is encoded, so that names in other alphabets stay readable.
    return "".join(part if part not in "%:" else quote(part, safe="") for part in text)
