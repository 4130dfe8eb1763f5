"""Reading a request's body within its limits of size and time."""

import asyncio

from starlette.requests import Request

from onlooker.domain.errors import InvalidInput, TooLarge

MAX_BODY_BYTES = 1_048_576
"""1 MiB (`wire.md`)."""

BODY_TIMEOUT_S = 15.0
"""A body that takes longer is cut off: a sender that trickles must not hold a place."""


async def read_body(request: Request) -> bytes:
    """The whole body. Raises `TooLarge` as soon as it is over the limit, `InvalidInput` when it comes too slowly."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise TooLarge(f"a body may have {MAX_BODY_BYTES} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise TooLarge(f"a body may have {MAX_BODY_BYTES} bytes")
                parts.append(part)
    except TimeoutError:
        raise InvalidInput(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)
