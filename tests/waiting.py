import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

INTERVAL_S = 0.01


@overload
async def wait_until(condition: Callable[[], Awaitable[T]], timeout_s: float = ...) -> T: ...
@overload
async def wait_until(condition: Callable[[], T], timeout_s: float = ...) -> T: ...
async def wait_until(condition: Callable[[], T | Awaitable[T]], timeout_s: float = 10.0) -> T:
    """The first true answer of `condition`, asked again and again, whether it answers at once or is awaited.

    Fails the test after `timeout_s` with the last answer. An exception of the condition is the caller's.
    """
    give_up_at = time.monotonic() + timeout_s
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= give_up_at:
            described = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"still {value!r} after {timeout_s} s: {described}")
        await asyncio.sleep(INTERVAL_S)
