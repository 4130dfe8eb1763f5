"""What an error of a model API means: by its names and codes, else by its status; never by words.

Names are identifiers out of the error object (`error.type`, `error.code`, `error.status`, a detail's `reason`). Its
message is for people, holds what nobody should see in a log, and is not looked at.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onlooker.domain.errors import BadSettings, Busy, Exhausted, ProviderError, Rejected, TooLong

_STATUS = re.compile(r"[45]\d\d")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,79}")

_QUOTA = """
    insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded
    spend_limit_exceeded billing_hard_limit_reached billing_not_active billing_error billing_disabled
    insufficient_balance insufficient_credits insufficient_funds payment_required quota_exceeded usage_limit_reached
    credit_balance_too_low
"""
_SETTINGS = """
    invalid_api_key incorrect_api_key api_key_invalid api_key_expired authentication_error unauthenticated unauthorized
    permission_error permission_denied account_deactivated access_terminated service_disabled consumer_invalid
    consumer_suspended api_key_service_blocked api_key_http_referrer_blocked api_key_ip_address_blocked
    model_not_found model_decommissioned model_not_available not_found_error not_found deployment_not_found
    unsupported_country_region_territory failed_precondition
"""
_LENGTH = """
    context_length_exceeded request_too_large string_above_max_length context_window_exceeded exceed_context_size_error
    prompt_too_long tokens_limit_reached max_tokens_exceeded payload_too_large
"""
_REFUSAL = """
    content_filter content_policy_violation content_moderation moderation_blocked invalid_prompt prohibited_content
    safety policy_violation
"""
_BUSY = """
    rate_limit_error rate_limit_exceeded rate_limit_reached too_many_requests resource_exhausted overloaded_error
    overloaded server_is_overloaded engine_overloaded slow_down capacity_exceeded service_unavailable
    service_unavailable_error unavailable timeout_error deadline_exceeded
"""
_ANY_FAULT = frozenset({"api_error", "server_error", "internal_server_error", "internal_error", "internal", "timeout"})
"""Names that servers give to all sorts of faults: the status says more, where there is one."""

_MEANINGS: Mapping[str, type[ProviderError]] = {
    name: kind
    for names, kind in (
        (_BUSY, Busy),
        (_REFUSAL, Rejected),
        (_LENGTH, TooLong),
        (_SETTINGS, BadSettings),
        (_QUOTA, Exhausted),
    )
    for name in names.split()
}

_STATUSES: Mapping[int, type[ProviderError]] = {
    401: BadSettings, 402: Exhausted, 403: BadSettings, 404: BadSettings, 405: BadSettings, 407: BadSettings, 408: Busy,
    409: Busy, 413: TooLong, 421: Busy, 425: Busy, 426: BadSettings, 429: Busy, 451: Rejected, 498: Busy, 499: Busy,
}  # fmt: skip
"""Where no name says more. 498 is a server without room, 499 a call that somebody on the way gave up. Server errors are
`Busy`; the rest of 4xx is what the request itself is refused for."""

_STRUCTURE = frozenset(
    {
        "response_format", "text.format", "tools", "tool_choice", "strict", "input_schema", "json_schema",
        "structured_outputs",
        "generationconfig.responseschema", "generation_config.response_schema", "responseschema", "response_schema",
        "responsemimetype", "invalid_json_schema", "unsupported_response_format", "json_validate_failed",
    }
)  # fmt: skip
"""What a refusal of structured output is about, by parameter or name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of an API. `names` most specific first; `parameters` are those that it is about."""

    status: int
    names: tuple[str, ...] = ()
    parameters: frozenset[str] = frozenset()
    daily: bool = False

    @property
    def kind(self) -> type[ProviderError] | None:
        """What it means; None for a request that is refused without a reason that has a name."""
        if self.status == 413:
            return TooLong
        if self.daily:
            return Exhausted
        for name in self.names:
            if name in _MEANINGS:
                return _MEANINGS[name]
        if self.status >= 500:
            return Busy
        if 300 <= self.status < 400:
            return BadSettings
        return _STATUSES.get(self.status, Busy if _ANY_FAULT.intersection(self.names) else None)

    @property
    def is_about_structure(self) -> bool:
        """Whether it says by name that structured output is what is refused."""
        return any(word.startswith(tuple(_STRUCTURE)) for word in (*self.names, *self.parameters))

    def shown(self) -> str:
        """Status and most specific name, for people."""
        return f"{self.status} {self.names[0]}" if self.names else str(self.status)


def failure_of(status: int, body: Any) -> Failure:
    """What an error's status and body say; a body of any shape will do."""
    outer = body[0] if isinstance(body, list) and body else body
    outer = outer if isinstance(outer, Mapping) else {}
    inner = outer.get("error")
    error = inner if isinstance(inner, Mapping) else outer
    details = [each for each in _items(error.get("details")) if isinstance(each, Mapping)]
    raw = [each.get("reason") for each in details]
    metadata = error.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("reasons"), list):
        raw.append("moderation_blocked")  # OpenRouter: what of the input was flagged
    raw += [error.get("code"), error.get("type"), error.get("status")]
    if isinstance(inner, str):
        raw.append(outer.get("code"))
    names = tuple(dict.fromkeys(name.lower() for name in raw if isinstance(name, str) and _NAME.fullmatch(name)))
    told = str(error.get("code"))
    if status < 400 and _STATUS.fullmatch(told):
        status = int(told)
    fields = [violation.get("field") for each in details for violation in _violations(each, "fieldViolations")]
    parameters = [value for value in (error.get("param"), *fields) if isinstance(value, str)]
    return Failure(status, names, frozenset(name.lower() for name in parameters), daily=_is_daily(details))


def provider_error(
    failure: Failure, kind: type[ProviderError], *, who: str, retry_after_s: float | None
) -> ProviderError:
    """The error to raise; its message has status and name and nothing of the request."""
    message = f"{who}: {failure.shown()}"
    if issubclass(kind, Rejected | TooLong):
        return kind(message)
    if issubclass(kind, Exhausted):
        return kind(message, retry_after_s=retry_after_s)
    return Busy(message, retry_after_s=retry_after_s)


def _is_daily(details: list[Mapping[str, Any]]) -> bool:
    """Whether a quota of Gemini's is used up that is not filled again within the minute, by the quota's id."""
    quotas = [violation.get("quotaId") for each in details for violation in _violations(each, "violations")]
    return any(isinstance(quota, str) and "PerDay" in quota for quota in quotas)


def _violations(detail: Mapping[str, Any], member: str) -> Iterator[Mapping[str, Any]]:
    return (each for each in _items(detail.get(member)) if isinstance(each, Mapping))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
