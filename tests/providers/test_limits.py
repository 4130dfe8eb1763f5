"""When a provider may be asked again: every way that APIs say it in."""

from collections.abc import Mapping
from typing import Any

import pytest

from onlooker.providers.limits import LONGEST_S, retry_after_s, used_up_for_s

NOW = 1_790_000_000.0
"""2026-09-21T13:33:20Z"""

WAITS: list[tuple[Mapping[str, str], Any, float | None]] = [
    ({}, None, None),
    ({"retry-after": "7"}, None, 7),
    ({"retry-after": "0.25"}, None, 0.25),
    ({"retry-after-ms": "1500", "retry-after": "2"}, None, 1.5),
    ({"retry-after": "Mon, 21 Sep 2026 14:13:20 GMT", "date": "Mon, 21 Sep 2026 14:13:00 GMT"}, None, 20),
    ({"retry-after": "Mon, 21 Sep 2026 14:13:30 GMT"}, None, 10),
    ({"retry-after": "soon"}, None, None),
    ({"retry-after": "-5"}, None, None),
    ({"retry-after": "99999999"}, None, LONGEST_S),
    ({"retry-after": "Mon, 21 Sep 2020 14:13:30 GMT"}, None, 0),
    ({"anthropic-ratelimit-requests-reset": "2026-09-21T14:13:50Z"}, None, 30),
    (
        {
            "anthropic-ratelimit-requests-remaining": "3", "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:21Z",
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:14:05Z",
        }, None, 45,
    ),
    ({"x-ratelimit-reset-requests": "17ms"}, None, 0.017),
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, None, 360),
    ({"x-ratelimit-reset-tokens": "1h2m3.5s", "x-ratelimit-remaining-tokens": "0"}, None, 3723.5),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1790000012"}, None, 12),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1790000012500"}, None, 12.5),
    ({}, {"error": {"details": [{"@type": "x"}, {"retryDelay": "34.5s"}]}}, 34.5),
    ({}, {"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1790000009000"}}}}, 9),
    ({}, {"error": "text"}, None),
    ({}, ["list"], None),
    ({}, {"error": {"details": "x", "metadata": []}}, None),
]  # fmt: skip


@pytest.mark.parametrize("headers, body, wait_s", WAITS)
def test_how_long_to_wait(headers: Mapping[str, str], body: Any, wait_s: float | None) -> None:
    told = retry_after_s(headers, body, NOW)
    assert told == (None if wait_s is None else pytest.approx(wait_s, abs=0.001))


def test_a_good_answer_may_say_that_it_was_the_last_one() -> None:
    assert used_up_for_s({"content-type": "x"}, NOW) is None
    assert used_up_for_s({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9s"}, NOW) is None
    assert used_up_for_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}, NOW) == 9
