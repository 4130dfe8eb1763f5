"""The three model APIs as their servers speak them: what a request asks, and how answers and errors look."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onlooker.domain.tokens import estimate_tokens

Api = Literal["anthropic", "openai", "gemini"]
APIS: tuple[Api, ...] = ("anthropic", "openai", "gemini")

Stop = Literal["end", "length", "refusal"]
Broken = Literal["reset", "half", "garbage", "not-json", "endless"]

STOPS: Mapping[Api, Mapping[Stop, str]] = {
    "anthropic": {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"},
    "openai": {"end": "stop", "length": "length", "refusal": "content_filter"},
    "gemini": {"end": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"},
}

GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip

ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip

OPENAI_TYPES = {401: "invalid_request_error", 429: "requests", 500: "server_error", 503: "server_error"}

_EVENT = re.compile(r'<event index="(\d+)"')
_MARK = re.compile(r"MARK-[A-Za-z0-9-]+")


@dataclass(frozen=True)
class Say:
    """What one call is answered with.

    With `notes`, `summary` or `data` a structured answer where the request asks for one, else the same as JSON text;
    with `text` that text, whatever was asked. A `status` of 400 and more is an error, `code` the name that the API
    gives it, `param` what it is about. `headers` are added. `broken`: the connection is reset instead of an answer, the
    answer ends in its middle, is no HTTP at all, is no JSON, or has no end.
    """

    notes: tuple[Mapping[str, Any], ...] | None = None
    summary: Mapping[str, str] | None = None
    data: Any = None
    text: str | None = None
    stop: Stop = "end"
    status: int = 200
    code: str | None = None
    param: str | None = None
    message: str = "scripted"
    details: tuple[Mapping[str, Any], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    broken: Broken | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass
class Asked:
    """One request as a model server sees it. `system` and `turns` are all the text that the model would read."""

    api: Api
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    raw: bytes
    at: float
    system: str
    turns: tuple[tuple[str, str], ...]
    structured: bool
    key: str
    model: str

    @property
    def prompt(self) -> str:
        return "\n".join(text for _, text in self.turns)

    @property
    def events(self) -> list[int]:
        """The indexes of the events in the first turn."""
        return [int(found) for found in _EVENT.findall(self.turns[0][1])] if self.turns else []


def api_of(path: str) -> Api | None:
    """Which API a path belongs to."""
    if path.endswith("/messages"):
        return "anthropic"
    if path.endswith("/chat/completions"):
        return "openai"
    return "gemini" if path.endswith(":generateContent") else None


def read_request(api: Api, path: str, headers: Mapping[str, str], raw: bytes, at: float) -> Asked:
    """Raises ValueError, KeyError or TypeError for a request that the API would refuse as malformed."""
    body = json.loads(raw)
    if api == "anthropic":
        system = _blocks(body.get("system", ""))
        turns = tuple((turn["role"], _blocks(turn["content"])) for turn in body["messages"])
        key, model, structured = headers.get("x-api-key", ""), body["model"], bool(body.get("tools"))
        int(body["max_tokens"])
        headers["anthropic-version"]
    elif api == "openai":
        messages = [(turn["role"], _blocks(turn["content"])) for turn in body["messages"]]
        system = "\n".join(text for role, text in messages if role in {"system", "developer"})
        turns = tuple(turn for turn in messages if turn[0] not in {"system", "developer"})
        key, model = headers.get("authorization", "").removeprefix("Bearer "), body["model"]
        structured = body.get("response_format", {}).get("type") == "json_schema"
    else:
        system = _blocks(body.get("systemInstruction", {}).get("parts", ""))
        turns = tuple((turn.get("role", "user"), _blocks(turn["parts"])) for turn in body["contents"])
        key = headers.get("x-goog-api-key", "")
        model = path.rpartition("/")[2].removesuffix(":generateContent")
        structured = "responseSchema" in body.get("generationConfig", {})
    return Asked(api, path, headers, body, raw, at, system, turns, structured, key, model)


def _blocks(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if "text" in block)


def observe(asked: Asked) -> Say:
    """What a model of good will answers: an observation an event, titled with its mark, or the summary asked for."""
    if asked.turns and "<task>summary" in asked.turns[0][1]:
        asks = _MARK.findall(asked.prompt)
        return Say(
            summary={"request": asks[0] if asks else "what was asked", "completed": f"{len(asked.events)} events"}
        )
    parts = _EVENT.split(asked.turns[0][1])[1:] if asked.turns else []
    notes = []
    for index, text in zip(parts[::2], parts[1::2], strict=True):
        mark = _MARK.search(text)
        title = mark[0] if mark else f"event {index}"
        notes.append({"type": "change", "title": title, "events": [int(index)]})
    return Say(notes=tuple(notes))


NOTE: Mapping[str, Any] = {
    "type": "change", "title": "", "subtitle": "", "narrative": "", "facts": [], "concepts": [], "files_read": [],
    "files_modified": [], "events": [], "supersedes": [],
}  # fmt: skip
SUMMARY = dict.fromkeys(("request", "investigated", "learned", "completed", "next_steps", "notes"), "")


def answer_body(asked: Asked, say: Say, cached_tokens: int) -> dict[str, Any]:
    """The body of a 200."""
    data = _data_of(say)
    text = say.text if say.text is not None else json.dumps(data, ensure_ascii=False)
    whole = asked.system + asked.prompt
    counted = (
        estimate_tokens(whole) if say.input_tokens is None else say.input_tokens,
        estimate_tokens(text) if say.output_tokens is None else say.output_tokens,
        cached_tokens if say.cached_tokens is None else say.cached_tokens,
    )
    structured = asked.structured and say.text is None and say.stop != "length"
    make = {"anthropic": _anthropic, "openai": _openai, "gemini": _gemini}[asked.api]
    return make(asked, text, data if structured else None, STOPS[asked.api][say.stop], counted)


def _data_of(say: Say) -> Any:
    if say.data is not None:
        return say.data
    if say.summary is not None:
        return {"summary": {**SUMMARY, **say.summary}, "skip_reason": ""}
    return {"observations": [{**NOTE, **note} for note in say.notes or ()], "skip_reason": ""}


def _anthropic(asked: Asked, text: str, data: Any, stop: str, counted: tuple[int, int, int]) -> dict[str, Any]:
    tokens_in, tokens_out, cached = counted
    name = asked.body.get("tool_choice", {}).get("name", "record")
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    if data is not None:
        content = [{"type": "tool_use", "id": "toolu_01scripted", "name": name, "input": data}]
        stop = "tool_use" if stop == "end_turn" else stop
    return {
        "id": "msg_01scripted", "type": "message", "role": "assistant", "model": asked.model, "content": content,
        "stop_reason": stop, "stop_sequence": None,
        "usage": {
            "input_tokens": tokens_in - cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
            "output_tokens": tokens_out, "service_tier": "standard",
        },
    }  # fmt: skip


def _openai(asked: Asked, text: str, data: Any, stop: str, counted: tuple[int, int, int]) -> dict[str, Any]:
    tokens_in, tokens_out, cached = counted
    content = text if data is None else json.dumps(data, ensure_ascii=False)
    return {
        "id": "chatcmpl-scripted", "object": "chat.completion", "created": int(asked.at), "model": asked.model,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": content, "refusal": None}, "logprobs": None,
            "finish_reason": stop,
        }],
        "usage": {
            "prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": "fp_scripted",
    }  # fmt: skip


def _gemini(asked: Asked, text: str, data: Any, stop: str, counted: tuple[int, int, int]) -> dict[str, Any]:
    tokens_in, tokens_out, cached = counted
    content = text if data is None else json.dumps(data, ensure_ascii=False)
    candidate: dict[str, Any] = {"finishReason": stop, "index": 0}
    if stop != "SAFETY":
        candidate["content"] = {"parts": [{"text": content}] if content else [], "role": "model"}
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": tokens_in, "candidatesTokenCount": tokens_out, "cachedContentTokenCount": cached,
            "totalTokenCount": tokens_in + tokens_out,
        },
        "modelVersion": asked.model, "responseId": "scripted",
    }  # fmt: skip


def error_body(api: Api, say: Say) -> dict[str, Any]:
    """The body of an error, with the fields that each API gives."""
    if api == "anthropic":
        kind = say.code or ANTHROPIC_TYPES.get(say.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": say.message}, "request_id": "req_scripted"}
    if api == "openai":
        kind = OPENAI_TYPES.get(say.status, "invalid_request_error")
        return {"error": {"message": say.message, "type": kind, "param": say.param, "code": say.code}}
    status = GEMINI_STATUSES.get(say.status, "UNKNOWN")
    details = list(say.details)
    if say.code:
        reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": say.code, "domain": "googleapis.com"}
        details.append(reason)
    return {"error": {"code": say.status, "message": say.message, "status": status, "details": details}}


def limit_headers(api: Api, remaining: int, reset_s: float, now: str) -> dict[str, str]:
    """The rate-limit headers of an answer; `now` is the time of the reset in RFC 3339."""
    if api == "anthropic":
        return {
            "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": str(remaining),
            "anthropic-ratelimit-requests-reset": now,
        }  # fmt: skip
    if api == "openai":
        return {
            "x-ratelimit-limit-requests": "50", "x-ratelimit-remaining-requests": str(remaining),
            "x-ratelimit-reset-requests": f"{reset_s:g}s",
        }  # fmt: skip
    return {}


def retry_info(delay: str) -> Mapping[str, Any]:
    """Gemini's way of saying when to come again, as `34s`."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota_failure(quota_id: str) -> Mapping[str, Any]:
    """Gemini's way of saying which quota is used up."""
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}
