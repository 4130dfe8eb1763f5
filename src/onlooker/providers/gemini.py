"""Gemini's generateContent: the answer is JSON against a response schema."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from onlooker.domain.models import Usage
from onlooker.domain.modes import Mode
from onlooker.providers.prompt import Form, Prompt, Task, answer_schema
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

_REFUSALS = frozenset({"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"})


class Gemini:
    """The schema is a dialect of its own: types in capitals, the order of members told, no word about other ones."""

    name = "gemini"

    def __init__(self, *, base_url: str, model: str, key: str) -> None:
        self.model = model.removeprefix("models/")
        self.endpoint = endpoint_of(base_url)
        self._url = url_of(base_url, "/v1beta", f"/models/{self.model}:generateContent")
        self._headers = {"x-goog-api-key": key} if key else {}

    def request(self, prompt: Prompt, form: Form, turns: Sequence[Turn] = ()) -> Request:
        """See `Wire`."""
        text = f"{prompt.events}\n\n{prompt.closing(form)}"
        contents: list[dict[str, Any]] = [{"role": "user", "parts": [{"text": prompt.facts}, {"text": text}]}]
        for turn in turns:
            contents.append({"role": "model", "parts": [{"text": turn.answer}]})
            contents.append({"role": "user", "parts": [{"text": turn.complaint}]})
        config: dict[str, Any] = {"maxOutputTokens": MAX_OUTPUT_TOKENS}
        if form is Form.STRUCTURED:
            config["responseMimeType"] = "application/json"
            config["responseSchema"] = _schema(prompt.task, prompt.mode)
        body = {
            "systemInstruction": {"parts": [{"text": prompt.system}]},
            "contents": contents,
            "generationConfig": config,
        }
        return Request(self._url, self._headers, body)

    def read(self, body: Mapping[str, Any]) -> Reply:
        """See `Wire`. A blocked prompt has no candidate; thoughts count as output and are no part of the answer."""
        candidate = first_of(body.get("candidates"))
        parts = mapping(candidate.get("content")).get("parts")
        texts = [mapping(part) for part in parts] if isinstance(parts, list) else []
        said = [part["text"] for part in texts if isinstance(part.get("text"), str) and not part.get("thought")]
        reason = candidate.get("finishReason")
        stop = Stop.LENGTH if reason == "MAX_TOKENS" else Stop.REFUSED if reason in _REFUSALS else Stop.END
        if mapping(body.get("promptFeedback")).get("blockReason"):
            stop = Stop.REFUSED
        usage = body.get("usageMetadata")
        tokens_out = count(usage, "candidatesTokenCount") + count(usage, "thoughtsTokenCount")
        return Reply(
            "".join(said),
            None,
            stop,
            Usage(1, count(usage, "promptTokenCount"), tokens_out, count(usage, "cachedContentTokenCount")),
            text_or(body.get("modelVersion"), self.model),
            body if body.get("error") else None,
        )

    def adapts(self, parameters: frozenset[str]) -> bool:
        """See `Wire`: nothing to adapt."""
        return False


@lru_cache(maxsize=32)
def _schema(task: Task, mode: Mode) -> dict[str, Any]:
    return _in_dialect(answer_schema(task, mode))


def _in_dialect(schema: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": str(schema["type"]).upper()}
    if "enum" in schema:
        made |= {"format": "enum", "enum": schema["enum"]}
    if "items" in schema:
        made["items"] = _in_dialect(schema["items"])
    if "properties" in schema:
        made["properties"] = {name: _in_dialect(member) for name, member in schema["properties"].items()}
        made["required"] = schema["required"]
        made["propertyOrdering"] = schema["required"]
    return made
