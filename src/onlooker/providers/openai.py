"""Chat completions, as OpenAI and everybody who speaks its API serves them: the answer is JSON against a schema."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

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
    first_of,
    mapping,
    text_or,
    url_of,
)

_NAMES = {Task.OBSERVE: "observations", Task.SUMMARY: "summary"}
_STOPS = {
    "length": Stop.LENGTH, "max_tokens": Stop.LENGTH, "model_length": Stop.LENGTH,
    "content_filter": Stop.REFUSED, "refusal": Stop.REFUSED, "safety": Stop.REFUSED,
}  # fmt: skip
"""OpenAI's own words, and those of others that gateways pass on."""
_OWN_LIMIT, _COMMON_LIMIT = "max_completion_tokens", "max_tokens"


class OpenAi:
    """The limit of an answer has two names: OpenAI's own models refuse the old one, other servers ignore the new."""

    name = "openai"

    def __init__(self, *, base_url: str, model: str, key: str) -> None:
        self.model = model
        self.endpoint = endpoint_of(base_url)
        self._url = url_of(base_url, "/v1", "/chat/completions")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        own = (urlsplit(base_url).hostname or "").endswith("openai.com")
        self._limit = _OWN_LIMIT if own else _COMMON_LIMIT

    def request(self, prompt: Prompt, form: Form, turns: Sequence[Turn] = ()) -> Request:
        """See `Wire`. The messages begin with the same bytes each time, which is what prefix caching goes by."""
        messages = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": f"{prompt.facts}\n\n{prompt.events}\n\n{prompt.closing(form)}"},
        ]
        for turn in turns:
            messages.append({"role": "assistant", "content": turn.answer})
            messages.append({"role": "user", "content": turn.complaint})
        body: dict[str, Any] = {"model": self.model, self._limit: MAX_OUTPUT_TOKENS, "messages": messages}
        if form is Form.STRUCTURED:
            schema = {"name": _NAMES[prompt.task], "strict": True, "schema": prompt.schema_of(prompt.task)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return Request(self._url, self._headers, body)

    def read(self, body: Mapping[str, Any]) -> Reply:
        """See `Wire`. Gateways put errors into a 200, at the top or in the choice."""
        choice = first_of(body.get("choices"))
        message = mapping(choice.get("message"))
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part for block in content if isinstance(part := mapping(block).get("text"), str))
        stop = _STOPS.get(str(choice.get("finish_reason")).lower(), Stop.END)
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            stop = Stop.REFUSED
        usage = body.get("usage")
        cached = count(mapping(usage).get("prompt_tokens_details"), "cached_tokens")
        cached = cached or count(usage, "prompt_cache_hit_tokens")
        return Reply(
            content if isinstance(content, str) else "",
            None,
            stop,
            Usage(1, count(usage, "prompt_tokens"), count(usage, "completion_tokens"), cached),
            text_or(body.get("model"), self.model),
            next((mapping(at) for at in (body, choice) if at.get("error")), None),
        )

    def adapts(self, parameters: frozenset[str]) -> bool:
        """See `Wire`: the other name of the limit, once."""
        if self._limit not in parameters:
            return False
        self._limit = _OWN_LIMIT if self._limit == _COMMON_LIMIT else _COMMON_LIMIT
        return True
