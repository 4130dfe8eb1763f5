"""Deterministic keys: any retry, redelivery or re-sent hook lands on the row that is already there."""

import hashlib
import json
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import Any

from onlooker.domain.jobs import ID_PREFIX, JobKind

KEY_PREFIX = "onl_"


def digest(*parts: str | int | None) -> str:
    """sha256 over the canonical JSON of the parts, as hex: no two different lists of parts look the same."""
    # Part by part, since an encoder of whole values takes longer to make itself ready than the hash does.
    texts = [encode_basestring(part) if isinstance(part, str) else _encode(part) for part in parts]
    return hashlib.sha256(f"[{','.join(texts)}]".encode()).hexdigest()


def _encode(part: int | None) -> str:
    return "null" if part is None else str(part)


def event_key_by_source(team_id: str, project_id: str, source_event_id: str) -> str:
    """The key of an event whose sender named it."""
    return digest("source", team_id, project_id, source_event_id)


def event_key_by_tool_use(team_id: str, project_id: str, session: str, tool_use_id: str, phase: str) -> str:
    """The key of a tool use: the same whether it comes from a hook, a transcript or a replay.

    `session` is the agent's own session id (ours, where only that is known), `phase` is pre, post or failed.
    """
    return digest("tool", team_id, project_id, session, tool_use_id, phase)


def event_key_by_content(
    team_id: str,
    project_id: str,
    adapter: str,
    session: str | None,
    event_type: str,
    occurred_at: int,
    canonical_payload: bytes,
) -> str:
    """The key of an event that nothing names: its content before redaction, its time and where it came from."""
    content = hashlib.sha256(canonical_payload).hexdigest()
    return digest("content", team_id, project_id, adapter, session, event_type, occurred_at, content)


def job_id(kind: JobKind, team_id: str, project_id: str, source_type: str, source_id: str) -> str:
    """The id of the job that makes observations of a source; a source has one, for ever."""
    return ID_PREFIX[kind] + digest(kind, team_id, project_id, source_type, source_id)


def batch_source_id(event_ids: Iterable[str]) -> str:
    """The source id of a job for several events that belong to no session; the order does not count."""
    return digest(*sorted(event_ids))


def turn_id(session_id: str, ordinal: int) -> str:
    """The id of a session's n-th turn (1 = the first)."""
    return "turn_" + digest(session_id, ordinal)[:40]


def generation_key(job: str, ordinal: int) -> str:
    """The key of a job's n-th observation: an answer that is stored twice is stored once."""
    return digest("generation", job, ordinal)


def message_id(session: str, content: Any, ordinal: int) -> str:
    """The id of a free-standing message that neither its sender nor a tool use names.

    `ordinal` is the engine's count of the session's messages, so that equal contents stay two messages.
    """
    return "msg_" + digest(session, json.dumps(content, sort_keys=True, ensure_ascii=False), ordinal)


def hash_key(key: str) -> str:
    """What is stored of an API key."""
    return hashlib.sha256(key.encode()).hexdigest()
