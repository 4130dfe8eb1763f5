"""Any endpoint that speaks OpenAI's `/embeddings`: OpenAI itself, Ollama, LM Studio, vLLM and many more."""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import httpx
import msgspec

from onlooker.domain.errors import BadSettings, Busy, Exhausted, ProviderError, Rejected, Unreadable
from onlooker.providers.embedders.contract import unit_vector

LONGEST_TEXT = 8_000
"""Characters of a note that are sent: about 2,000 tokens, which every model for embeddings takes."""

QUESTION_TIMEOUT_S = 3.0
"""Somebody waits for the answer, and search works without it."""

LOOK_AGAIN_S = 300.0
"""When a key, a model or an account is worth another try."""


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


_decode = msgspec.json.Decoder(_Answer).decode


class EndpointEmbedder:
    """See `Embedder`."""

    most_at_once = 64

    def __init__(self, base_url: str, *, model: str, api_key: str, timeout_s: float) -> None:
        self._name = model
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._timeout_s = timeout_s
        self._size: int | None = None
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(headers=headers)

    async def model(self) -> str:
        """See `Embedder`."""
        if self._size is None:
            await self._embed(["size"], QUESTION_TIMEOUT_S)
        return f"{self._name}/{self._size}"

    async def embed_notes(self, texts: Sequence[str]) -> list[bytes]:
        """See `Embedder`."""
        return await self._embed(texts, self._timeout_s)

    async def embed_question(self, text: str) -> bytes:
        """See `Embedder`."""
        [vector] = await self._embed([text], min(self._timeout_s, QUESTION_TIMEOUT_S))
        return vector

    async def close(self) -> None:
        """See `Embedder`."""
        await self._client.aclose()

    async def _embed(self, texts: Sequence[str], timeout_s: float) -> list[bytes]:
        # Some endpoints refuse an empty text.
        asked = {"model": self._name, "input": [text[:LONGEST_TEXT] or " " for text in texts]}
        try:
            answer = await self._client.post(self._url, json=asked, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise Busy(f"the embeddings endpoint cannot be reached: {type(error).__name__}") from error
        if answer.status_code != HTTPStatus.OK:
            raise _refusal(answer)
        try:
            items = sorted(_decode(answer.content).data, key=lambda item: item.index)
        except msgspec.DecodeError as error:
            raise Unreadable("the embeddings endpoint answered with something else") from error
        if [item.index for item in items] != list(range(len(texts))):
            raise Unreadable(f"the embeddings endpoint answered {len(items)} vectors to {len(texts)} texts")
        sizes = {len(item.embedding) for item in items}
        if len(sizes) != 1 or self._size not in {None, *sizes}:
            raise Unreadable("the embeddings endpoint answered with vectors of several sizes")
        [self._size] = sizes
        return [unit_vector(item.embedding) for item in items]


def _refusal(answer: httpx.Response) -> ProviderError:
    """What a status means; the body is not looked at, it may repeat what was sent."""
    status = answer.status_code
    said = f"the embeddings endpoint answered {status}"
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
        return BadSettings(f"{said}: see ONLOOKER_EMBEDDER_URL, _MODEL and _API_KEY", retry_after_s=LOOK_AGAIN_S)
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return Exhausted(said, retry_after_s=LOOK_AGAIN_S)
    if (
        status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT}
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    ):
        return Busy(said, retry_after_s=_retry_after_s(answer.headers))
    return Rejected(said)


def _retry_after_s(headers: Any) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
