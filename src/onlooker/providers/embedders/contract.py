"""The embedder's contract: texts in, vectors out.

A vector is bytes: 32-bit floats, little-endian, of length 1, so that a dot product is a cosine.
"""

import math
import struct
from collections.abc import Sequence
from typing import Protocol

from onlooker.domain.errors import Unreadable


class Embedder(Protocol):
    """`most_at_once` is how many texts one call may take."""

    most_at_once: int

    async def model(self) -> str:
        """The name that vectors are stored under: whatever gives others for the same text has another one.

        An endpoint is asked once, for the size of its vectors. Raises `ProviderError`.
        """
        ...

    async def embed_notes(self, texts: Sequence[str]) -> list[bytes]:
        """The vectors of notes, in their order. Raises `ProviderError`."""
        ...

    async def embed_question(self, text: str) -> bytes:
        """The vector of what somebody looks for. Raises `ProviderError`, within a few seconds."""
        ...

    async def close(self) -> None:
        """Free what is held. Again: nothing."""
        ...


def unit_vector(numbers: Sequence[float]) -> bytes:
    """These numbers as a vector of length 1. Raises `Unreadable` where they have no direction."""
    length = math.sqrt(sum(number * number for number in numbers))
    if not length or not math.isfinite(length):
        raise Unreadable("the embedder answered with a vector that has no direction")
    return struct.pack(f"<{len(numbers)}f", *(number / length for number in numbers))
