"""Anthropic's Messages API: the answer is the input of a tool with a strict schema."""

from collections.abc import Mapping, Sequence
from typing import Any

from onlooker.domain.models import Usage
from onlooker.providers.prompt import Form, Prompt, Task
from onlooker.providers.wire import (
    MAX_OUTPUT_TOKENS,
    Reply,
    Request,
    Stop,
    Turn,
    count,
    endpoint_of,
    mapping,
    text_or,
    url_of,
)

API_VERSION = "2023-06-01"

_TOOLS = {Task.OBSERVE: "record_observations", Task.SUMMARY: "record_summary"}
_SAYS = {
    Task.OBSERVE: "Records the observations that the events deserve, possibly none.",
    Task.SUMMARY: "Records the summary of the events.",
}
_STOPS = {
    "max_tokens": Stop.LENGTH,
    "refusal": Stop.REFUSED,
    "model_context_window_exceeded": Stop.TOO_LONG,
}


class Anthropic:
    """`cache_control` stands behind the system prompt, so that tools and system prompt are read from the cache."""

    name = "anthropic"

    def __init__(self, *, base_url: str, model: str, key: str) -> None:
        self.model = model
        self.endpoint = endpoint_of(base_url)
        self._url = url_of(base_url, "/v1", "/messages")
        self._headers = {"anthropic-version": API_VERSION, **({"x-api-key": key} if key else {})}

    def request(self, prompt: Prompt, form: Form, turns: Sequence[Turn] = ()) -> Request:
        """See `Wire`. The tools of both tasks are always sent, so that one cached prefix serves both."""
        content = [
            {"type": "text", "text": prompt.facts},
            {"type": "text", "text": f"{prompt.events}\n\n{prompt.closing(form)}"},
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        for turn in turns:
            messages.append({"role": "assistant", "content": turn.answer})
            messages.append({"role": "user", "content": turn.complaint})
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": MAX_OUTPUT_TOKENS,
            "system": [{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}],
            "messages": messages,
        }
        if form is Form.STRUCTURED:
            body["tools"] = [
                {
                    "name": _TOOLS[task],
                    "description": _SAYS[task],
                    "strict": True,
                    "input_schema": prompt.schema_of(task),
                }
                for task in Task
            ]
            body["tool_choice"] = {"type": "tool", "name": _TOOLS[prompt.task]}
        return Request(self._url, self._headers, body)

    def read(self, body: Mapping[str, Any]) -> Reply:
        """See `Wire`. `input_tokens` of this API leave out what was read from or written to the cache."""
        content = body.get("content")
        blocks = [mapping(block) for block in content] if isinstance(content, list) else []
        used = [block["input"] for block in blocks if block.get("type") == "tool_use" and block.get("input")]
        said = [block["text"] for block in blocks if block.get("type") == "text" and isinstance(block.get("text"), str)]
        usage = body.get("usage")
        cached, written = count(usage, "cache_read_input_tokens"), count(usage, "cache_creation_input_tokens")
        tokens_in = count(usage, "input_tokens") + written + cached
        return Reply(
            "\n".join(said),
            used[0] if used else None,
            _STOPS.get(str(body.get("stop_reason")), Stop.END),
            Usage(1, tokens_in, count(usage, "output_tokens"), cached, written),
            text_or(body.get("model"), self.model),
            body if body.get("type") == "error" else None,
        )

    def adapts(self, parameters: frozenset[str]) -> bool:
        """See `Wire`: nothing to adapt."""
        return False
