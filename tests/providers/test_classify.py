"""What errors mean by status and names: the shapes of the services and servers that speak these APIs."""

from typing import Any

import pytest

from onlooker.domain.errors import BadSettings, Busy, Exhausted, ProviderError, Rejected, TooLong
from onlooker.providers.classify import failure_of

SHAPES: list[tuple[str, int, Any, type[ProviderError] | None]] = [
    ("Ollama, no such model", 404, {"error": {"message": "x", "type": "api_error", "code": None}}, BadSettings),
    ("Ollama, old", 404, {"error": "model 'x' not found"}, BadSettings),
    ("llama.cpp, too long", 400, {"error": {"code": 400, "type": "exceed_context_size_error"}}, TooLong),
    ("vLLM, anything", 400, {"object": "error", "message": "x", "type": "BadRequestError", "code": 400}, None),
    ("DeepSeek, no balance", 402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}, Exhausted),
    ("Groq, too long for a minute", 413, {"error": {"type": "tokens", "code": "rate_limit_exceeded"}}, TooLong),
    ("Groq, old model", 400, {"error": {"code": "model_decommissioned"}}, BadSettings),
    ("OpenRouter, credits", 402, {"error": {"code": 402, "message": "x"}}, Exhausted),
    ("OpenRouter, flagged", 403, {"error": {"code": 403, "metadata": {"reasons": ["violence"]}}}, Rejected),
    ("OpenRouter, error in a 200", 200, {"error": {"code": 429, "message": "x"}}, Busy),
    ("OpenRouter, provider down in a 200", 200, {"error": {"code": 502, "message": "x"}}, Busy),
    ("OpenRouter, a code in letters in a 200", 200, {"error": {"code": "429", "message": "x"}}, Busy),
    ("Groq, no room", 498, {"error": {"type": "capacity", "code": "flex_capacity"}}, Busy),
    ("Gemini, given up on the way", 499, {"error": {"code": 499, "status": "CANCELLED"}}, Busy),
    ("Azure, a number for a name", 429, {"error": {"code": "429", "message": "x"}}, Busy),
    ("Azure, no such deployment", 404, {"error": {"code": "DeploymentNotFound"}}, BadSettings),
    ("Mistral, rate", 429, {"object": "error", "type": "rate_limited", "code": "1300"}, Busy),
    ("a proxy that wants a password", 407, None, BadSettings),
    ("Azure, filter", 400, {"error": {"code": "content_filter", "innererror": {}}}, Rejected),
    ("OpenAI, project limit", 429, {"error": {"code": "project_spend_limit_exceeded"}}, Exhausted),
    ("OpenAI, country", 403, {"error": {"code": "unsupported_country_region_territory"}}, BadSettings),
    ("OpenAI, slow down", 503, {"error": {"code": "slow_down"}}, Busy),
    ("Anthropic, overloaded in a 200", 200, {"type": "error", "error": {"type": "overloaded_error"}}, Busy),
    ("Anthropic, some fault in a 200", 200, {"type": "error", "error": {"type": "api_error"}}, Busy),
    ("Gemini in a list", 503, [{"error": {"code": 503, "status": "UNAVAILABLE"}}], Busy),
    ("Gemini, not in this country", 400, {"error": {"code": 400, "status": "FAILED_PRECONDITION"}}, BadSettings),
    ("Gemini, malformed", 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, None),
    ("a proxy's page", 502, None, Busy),
    ("a page that moved", 301, None, BadSettings),
    ("for legal reasons", 451, None, Rejected),
    ("nothing known", 418, {"error": {"type": 7, "code": [1], "details": "x"}}, None),
    ("words in a code", 400, {"error": {"code": "quota exceeded for today"}}, None),
]  # fmt: skip


@pytest.mark.parametrize("status, body, kind", [each[1:] for each in SHAPES], ids=[each[0] for each in SHAPES])
def test_what_it_means(status: int, body: Any, kind: type[ProviderError] | None) -> None:
    assert failure_of(status, body).kind is kind


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"param": "response_format", "code": None}},
        {"error": {"code": "json_validate_failed"}},
        {"error": {"param": "tools.0.strict"}},
        {"error": {"details": [{"fieldViolations": [{"field": "generation_config.response_schema"}]}]}},
    ],
)
def test_what_is_about_structured_output_says_so_by_name(body: Any) -> None:
    assert failure_of(400, body).is_about_structure


def test_what_is_shown_is_status_and_name_only() -> None:
    body = {"error": {"code": "rate_limit_exceeded", "message": "secret words", "type": "x\n y"}}
    assert failure_of(429, body).shown() == "429 rate_limit_exceeded"
    assert failure_of(500, {"error": {"message": "secret words"}}).shown() == "500"
