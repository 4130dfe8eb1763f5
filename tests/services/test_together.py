"""What is asked for at the same time is done together, and nobody pays for another's trouble."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from onlooker.domain.errors import StorageUnavailable
from onlooker.services.together import APART, LARGEST_GROUP, Together
from onlooker.storage.database import Connection

NO_CONNECTION: Any = None


class Echo:
    """Answers with what it was asked; a text that begins with `bad` fails, one that is `locked` is apart."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.may_begin = asyncio.Event()
        self.may_begin.set()
        self.unlocked = asyncio.Event()
        self.is_away = False
        self.ended = 0

    async def transact(self, work: Callable[[Connection], Any]) -> Any:
        try:
            await self.may_begin.wait()
            if self.is_away:
                raise StorageUnavailable("away")
            answers = work(NO_CONNECTION)
            if self.groups[-1] == ["locked"]:
                await self.unlocked.wait()
            await asyncio.sleep(0)
        finally:
            self.ended += 1
        return answers

    def work(self, _conn: Connection, asked: Sequence[str], /, *, waits: bool) -> list[str]:
        self.groups.append(list(asked))
        if any(text.startswith("bad") for text in asked):
            raise ValueError(asked)
        return [APART if text == "locked" and not waits else text.upper() for text in asked]

    def together(self) -> Together[str, str]:
        return Together(self.transact, self.work, key=lambda text: text[0])


async def test_what_is_asked_at_the_same_time_shares_a_transaction() -> None:
    echo = Echo()
    together = echo.together()
    assert await asyncio.gather(*(together.ask(text) for text in "abc")) == ["A", "B", "C"]
    assert echo.groups == [["a", "b", "c"]]


async def test_what_comes_meanwhile_is_the_next_transaction_and_none_is_too_large() -> None:
    echo = Echo()
    together = echo.together()
    texts = [chr(0x100 + number) for number in range(LARGEST_GROUP + 2)]
    assert await asyncio.gather(*(together.ask(text) for text in texts)) == [text.upper() for text in texts]
    assert [len(group) for group in echo.groups] == [LARGEST_GROUP, 2]


async def test_of_two_with_one_key_each_has_a_transaction_in_the_order_of_asking() -> None:
    echo = Echo()
    together = echo.together()
    assert await asyncio.gather(*(together.ask(text) for text in ("a1", "b1", "a2", "a3"))) == ["A1", "B1", "A2", "A3"]
    assert echo.groups == [["a1", "b1"], ["a2"], ["a3"]]


async def test_one_that_fails_fails_alone() -> None:
    echo = Echo()
    together = echo.together()
    answers = await asyncio.gather(*(together.ask(text) for text in ("a", "bad", "c")), return_exceptions=True)
    assert answers[0::2] == ["A", "C"]
    assert isinstance(answers[1], ValueError)


async def test_an_outage_is_everybodys() -> None:
    echo = Echo()
    together = echo.together()
    echo.is_away = True
    answers = await asyncio.gather(*(together.ask(text) for text in "abc"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageUnavailable] * 3
    echo.is_away = False
    assert await together.ask("a") == "A"


async def test_nobody_waits_for_what_another_has_locked() -> None:
    echo = Echo()
    together = echo.together()
    locked = asyncio.create_task(together.ask("locked"))
    assert await asyncio.gather(*(together.ask(text) for text in "ab")) == ["A", "B"]
    assert await together.ask("c") == "C"
    assert not locked.done()
    echo.unlocked.set()
    assert await locked == "LOCKED"


async def test_who_left_before_the_transaction_is_left_out_of_it() -> None:
    echo = Echo()
    together = echo.together()
    staying, leaving = (asyncio.create_task(together.ask(text)) for text in "ab")
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "A"
    assert echo.groups == [["a"]]


async def test_a_transaction_that_nobody_waits_for_any_more_is_given_up() -> None:
    echo = Echo()
    together = echo.together()
    echo.may_begin.clear()
    asking = [asyncio.create_task(together.ask(text)) for text in "ab"]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.gather(*asking)
    await asyncio.sleep(0)
    assert (echo.groups, echo.ended) == ([], 1)
    echo.may_begin.set()
    assert await together.ask("c") == "C"
