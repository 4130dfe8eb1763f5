"""Embedders: the small model in the process, and any endpoint that speaks OpenAI's `/embeddings`."""

import asyncio
import json
import math
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from onlooker.domain.errors import BadSettings, Busy, Exhausted, ProviderError, Rejected, Unreadable
from onlooker.providers.embedders.endpoint import EndpointEmbedder
from onlooker.providers.embedders.local import LONGEST_QUESTION, LocalEmbedder


def numbers_of(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def cosine(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(numbers_of(one), numbers_of(other), strict=True))


async def test_the_local_model_knows_that_two_languages_say_the_same() -> None:
    embedder = LocalEmbedder()
    try:
        same, other = await embedder.embed_notes(["Der Zwischenspeicher wurde geleert", "Wir aßen zu Mittag"])
        question = await embedder.embed_question("why was the cache cleared?")
        assert cosine(question, same) > cosine(question, other)
        size = int((await embedder.model()).rpartition("/")[2])
        assert [len(numbers_of(vector)) for vector in (question, same, other)] == [size] * 3
        assert math.isclose(cosine(same, same), 1, rel_tol=1e-3)
    finally:
        await embedder.close()


@pytest.mark.parametrize("character", ["x", "漢"])
async def test_of_a_long_question_the_beginning_counts(character: str) -> None:
    embedder = LocalEmbedder()
    try:
        vectors = [await embedder.embed_question(character * count) for count in (20, LONGEST_QUESTION, 10_000)]
        assert vectors[0] != vectors[1] == vectors[2]
    finally:
        await embedder.close()


@pytest.mark.parametrize("text", ["", "\x00", "\ud800", "x" * 100_000, "日本語" * 2_000])
async def test_the_local_model_takes_any_text(text: str) -> None:
    embedder = LocalEmbedder()
    try:
        [vector] = await embedder.embed_notes([text])
        assert math.isclose(cosine(vector, vector), 1, rel_tol=1e-3)
        assert await embedder.embed_question(text)
    finally:
        await embedder.close()


@dataclass
class Endpoint:
    """Answers `/embeddings`; `status` and `change` make it answer otherwise."""

    url: str = ""
    status: int = 200
    headers: str = ""
    change: Callable[[dict[str, Any]], object] = lambda answer: answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.lower().splitlines() if line.startswith("content-length")
        )
        asked = json.loads(await reader.readexactly(length))
        self.heads.append(head)
        self.asked.append(asked)
        data = [{"index": n, "embedding": [float(len(text)), 1.0, 2.0]} for n, text in enumerate(asked["input"])]
        body = json.dumps(self.change({"data": data[::-1], "model": asked["model"]})).encode()
        status = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{self.headers}\r\n"
        writer.write(status.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def endpoint(**given: Any) -> AsyncIterator[tuple[Endpoint, EndpointEmbedder]]:
    it = Endpoint(**given)
    server = await asyncio.start_server(it.answer, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    embedder = EndpointEmbedder(it.url, model="tiny", api_key="sk-test", timeout_s=5)
    try:
        yield it, embedder
    finally:
        await embedder.close()
        server.close()
        await server.wait_closed()


async def test_an_endpoint_gives_vectors_of_length_one_in_the_order_asked() -> None:
    async with endpoint() as (it, embedder):
        short, long = await embedder.embed_notes(["a", "a longer text"])
        assert math.isclose(cosine(long, long), 1, rel_tol=1e-6)
        assert numbers_of(short)[0] < numbers_of(long)[0]
        assert it.asked == [{"model": "tiny", "input": ["a", "a longer text"]}]
        assert "Bearer sk-test" in it.heads[0]
        assert it.heads[0].startswith("POST /v1/embeddings ")
        assert await embedder.model() == "tiny/3"
        assert len(it.asked) == 1


async def test_the_size_of_its_vectors_is_asked_for_once() -> None:
    async with endpoint() as (it, embedder):
        assert [await embedder.model() for _ in range(3)] == ["tiny/3"] * 3
        assert len(it.asked) == 1


@pytest.mark.parametrize(
    "status, kind",
    [(401, BadSettings), (404, BadSettings), (402, Exhausted), (429, Busy), (500, Busy), (503, Busy), (400, Rejected)],
)
async def test_a_status_says_what_to_do(status: int, kind: type[ProviderError]) -> None:
    async with endpoint(status=status, headers="retry-after: 7\r\n") as (_, embedder):
        with pytest.raises(kind) as refusal:
            await embedder.embed_notes(["a secret text"])
        assert "secret" not in str(refusal.value)
        assert refusal.value.retry_after_s == {Busy: 7.0, Rejected: None}.get(kind, 300.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda _answer: {"data": []},
        lambda _answer: {"nothing": 1},
        lambda _answer: ["no object"],
        lambda answer: {"data": answer["data"][:1]},
        lambda answer: {"data": [{**item, "embedding": [0.0, 0.0]} for item in answer["data"]]},
        lambda answer: {"data": [{**item, "embedding": [1.0] * (1 + item["index"])} for item in answer["data"]]},
    ],
    ids=["none", "other", "list", "too few", "no direction", "several sizes"],
)
async def test_an_answer_that_is_no_answer_is_told(change: Callable[[dict[str, Any]], object]) -> None:
    async with endpoint(change=change) as (_, embedder):
        with pytest.raises(Unreadable):
            await embedder.embed_notes(["a", "b"])


async def test_vectors_that_change_their_size_are_refused() -> None:
    async with endpoint() as (it, embedder):
        await embedder.embed_notes(["a"])
        it.change = lambda answer: {"data": [{**item, "embedding": [1.0]} for item in answer["data"]]}
        with pytest.raises(Unreadable):
            await embedder.embed_notes(["a"])


async def test_an_endpoint_that_is_not_there_is_busy() -> None:
    embedder = EndpointEmbedder("http://127.0.0.1:1/v1", model="tiny", api_key="", timeout_s=1)
    with pytest.raises(Busy):
        await embedder.embed_question("why?")
    await embedder.close()
