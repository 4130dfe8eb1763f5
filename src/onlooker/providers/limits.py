"""When a provider may be asked again: out of Retry-After, the reset headers, and what error objects say."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_S = 7 * 24 * 3600.0

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d|us|µs)")
_UNIT_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = re.compile(r"\d{1,16}(?:\.\d+)?")
_SECONDS_UNTIL = 10.0**7
"""A number of seconds below this is a wait, one above it a time since 1970; a thousand times that, in milliseconds."""

_LIMITS = re.compile(
    r"(?:anthropic-ratelimit-(?P<anthropic>[a-z-]+?)-(?P<what>remaining|reset)"
    r"|x-ratelimit-(?P<first>remaining|reset)(?:-(?P<other>[a-z-]+))?)"
)


def retry_after_s(headers: Mapping[str, str], body: Any, now_s: float) -> float | None:
    """How long to wait by what a refusal says; None where it says nothing.

    Times are taken against the answer's own Date header, so that a clock that is wrong here does no harm. Retry-After
    wins; without it the resets of the limits that are used up, else the soonest reset.
    """
    sent_s = _date(headers.get("date", "")) or now_s
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0), ("x-retry-after", 1.0)):
        if name in headers and (wait_s := _wait(headers[name], sent_s, unit_s)) is not None:
            return _bounded(wait_s)
    told = _in_body(body, sent_s)
    if told is not None:
        return _bounded(told)
    resets = _resets(headers, sent_s)
    used_up = [wait_s for remaining, wait_s in resets if remaining == 0]
    if used_up:
        return _bounded(max(used_up))
    return _bounded(min(wait_s for _, wait_s in resets)) if resets else None


def used_up_for_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """How long a limit stays used up that an answer, a good one too, says is used up; None where none is."""
    # Most answers leave something of each limit, and reading times takes longer than seeing that.
    if not any("ratelimit" in name and "remaining" in name and _is_zero(value) for name, value in headers.items()):
        return None
    sent_s = _date(headers.get("date", "")) or now_s
    used_up = [wait_s for remaining, wait_s in _resets(headers, sent_s) if remaining == 0]
    return _bounded(max(used_up)) if used_up else None


def _is_zero(count: str) -> bool:
    return bool(_NUMBER.fullmatch(count)) and float(count) == 0


def _resets(headers: Mapping[str, str], sent_s: float) -> list[tuple[float | None, float]]:
    """For each limit what remains of it and when it is filled again."""
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        if match := _LIMITS.fullmatch(name):
            limit = match["anthropic"] or match["other"] or ""
            found.setdefault(limit, {})[match["what"] or match["first"]] = value
    resets = []
    for limit in found.values():
        wait_s = _wait(limit.get("reset", ""), sent_s, 1.0)
        remaining = limit.get("remaining", "")
        if wait_s is not None:
            resets.append((float(remaining) if _NUMBER.fullmatch(remaining) else None, wait_s))
    return resets


def _in_body(body: Any, sent_s: float) -> float | None:
    """Gemini's RetryInfo, and the headers that OpenRouter passes on in an error's metadata."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return None
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str) and (wait_s := _wait(delay, sent_s, 1.0)) is not None:
            return wait_s
    metadata = error.get("metadata")
    passed_on = metadata.get("headers") if isinstance(metadata, Mapping) else None
    if isinstance(passed_on, Mapping):
        headers = {str(name).lower(): str(value) for name, value in passed_on.items()}
        waits = [wait_s for _, wait_s in _resets(headers, sent_s)]
        return max(waits, default=None)
    return None


def _wait(text: str, sent_s: float, unit_s: float) -> float | None:
    """Seconds: from a number of units, `1m30.5s`, a time in RFC 3339 or of HTTP, or a time since 1970."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        value = float(text)
        if value >= _SECONDS_UNTIL * 1e4:
            return value / 1000 - sent_s
        return value - sent_s if value >= _SECONDS_UNTIL * 10 else value * unit_s
    amounts = _AMOUNT.findall(text)
    if amounts and "".join(number + unit for number, unit in amounts) == text:
        return sum(float(number) * _UNIT_S[unit] for number, unit in amounts)
    at_s = _date(text)
    return None if at_s is None else at_s - sent_s


def _date(text: str) -> float | None:
    """A time in RFC 3339 or in HTTP's form, as seconds since 1970."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _bounded(wait_s: float) -> float:
    return min(max(wait_s, 0.0), LONGEST_S)
