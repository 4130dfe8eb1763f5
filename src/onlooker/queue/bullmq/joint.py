"""What is asked in one turn of the event loop, together: one call, one run of its script, one answer for all.

A call whose answer is lost is asked again as a whole; each part of it has what tells a repetition from a new one. What
is wrong with one part is told in its place, and to nobody else.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from onlooker.queue.bullmq.link import Argument, Ask, Command, Link, Refused, is_of_call

T = TypeVar("T")

LARGEST = 8
"""Parts of one call. Of more callers the next call is sent at once: Redis works on the first while they ask."""


class Gathering(Generic[T]):
    """Collects until the turn of the event loop is over, then has it sent; many in several portions.

    Who was alone in the last call that was answered will most likely be again, and is sent at once.
    """

    def __init__(self, send: Callable[[list[T]], None]) -> None:
        self._send = send
        self._parts: list[T] = []
        self._is_lone = False

    def add(self, part: T) -> None:
        """Send this with others."""
        if self._is_lone:
            self._is_lone = False
            self._send([part])
            return
        self._parts.append(part)
        if len(self._parts) == 1:
            asyncio.get_running_loop().call_soon(self._flush)
        elif len(self._parts) == LARGEST:
            self._flush()

    def answered(self, count: int) -> None:
        """A call of so many parts has been answered."""
        self._is_lone = count == 1 and not self._parts

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._send(parts)


Part = tuple[Sequence[Argument], asyncio.Future[Any]]
"""The arguments of a part, and who waits for its answer."""


@dataclass(slots=True, eq=False)
class _Shares:
    """Gives each part its own of what a script answers."""

    calls: "JointCalls"
    parts: list[Part]
    is_again: bool = False

    def done(self) -> bool:
        return False

    def set_result(self, told: list[Any]) -> None:
        self.calls.gathering.answered(len(self.parts))
        for part, its in zip(self.parts, told, strict=True):
            if part[1].done():
                continue
            if not isinstance(its, Refused):
                part[1].set_result(its)
            elif self.is_again:
                part[1].set_exception(self.calls.link.unavailable(str(its)))
            else:
                self.calls.ask_again(part, its)

    def set_exception(self, error: Exception) -> None:
        if len(self.parts) > 1 and is_of_call(error):
            self.calls.ask_apart(self.parts)
            return
        for _, answer in self.parts:
            if not answer.done():
                answer.set_exception(error)


class JointCalls:
    """Calls of a script that takes `before` and then the arguments of any number of them; it answers a list."""

    def __init__(self, link: Link, before: Command) -> None:
        self.link = link
        self.gathering: Gathering[Part] = Gathering(self._send)
        self._before = before

    def ask(self, arguments: Sequence[Argument]) -> asyncio.Future[Any]:
        """The answer to this part, or `QueueUnavailable`."""
        part = _part(arguments)
        self.gathering.add(part)
        return part[1]

    async def ask_many(self, each: Iterable[Sequence[Argument]]) -> list[Any]:
        """The answers to these, which are one call. Raises `QueueUnavailable`."""
        parts = [_part(arguments) for arguments in each]
        self._send(parts)
        return await asyncio.gather(*(answer for _, answer in parts))

    def ask_again(self, part: Part, failure: Refused) -> None:
        """Once more, where what Redis said of this part may pass; else that is its answer."""
        now = asyncio.get_running_loop().time()
        self.link.persist(self._asking([part]), _Shares(self, [part], is_again=True), failure, now)

    def ask_apart(self, parts: list[Part]) -> None:
        """Each in a call of its own: one of them is to blame for what happened to the call of all."""
        for part in parts:
            self._send([part])

    def _send(self, parts: list[Part]) -> None:
        self.link.send(self._asking(parts), _Shares(self, parts))

    def _asking(self, parts: list[Part]) -> Ask:
        command = self._before + tuple(chain.from_iterable(arguments for arguments, _ in parts))
        return lambda _attempt: command


def _part(arguments: Sequence[Argument]) -> Part:
    return arguments, asyncio.get_running_loop().create_future()
