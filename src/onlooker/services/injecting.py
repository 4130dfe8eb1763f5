"""Injecting: what an agent is told when a session starts, after it was compacted, and, where asked for, at a prompt."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from onlooker.domain.adapters import adapt, prompt_of
from onlooker.domain.adapters.injection import answer_with, moment_of
from onlooker.domain.models import Observation, Principal, Scope, SearchFilter
from onlooker.services.hooks import HookPayload, Hooks
from onlooker.services.recall import Recall
from onlooker.services.session_context import DEFAULT_BUDGET, SessionContext, SessionContexts

PROMPT_BUDGET = 600
PROMPT_NOTES = 3
LOOKED_AT = 10
MOST_FITTING = 20
COMMON_WORDS = 2
COMMON_SHARE = 0.3
"""A note fits a prompt when it has two of its longer words at least, and this share of them (of ten, at most)."""

_WORD = re.compile(r"\w{4,}")


class Injecting:
    """Answers hooks that may add to what their agent's model knows."""

    def __init__(self, hooks: Hooks, contexts: SessionContexts, recall: Recall) -> None:
        self._hooks = hooks
        self._contexts = contexts
        self._recall = recall

    async def answer(self, principal: Principal, hook: HookPayload) -> dict[str, Any]:
        """What the agent reads; empty where there is nothing to tell. Raises as `SessionContexts` does."""
        if not isinstance(hook.payload, Mapping):
            return {}
        moment = moment_of(hook.payload)
        event = next(iter(adapt(hook.payload, hook.platform).events), None)
        scope = None if event is None else await self._hooks.scope_of(principal, hook)
        if moment is None or event is None or scope is None:
            return {}
        if moment == "prompt":
            context = await self._fitting(scope, prompt_of(event.payload) or "")
        elif moment == "compacted" and event.content_session_id is not None:
            context = await self._contexts.of_compacted(scope, event.content_session_id, budget=DEFAULT_BUDGET)
        else:
            context = await self._contexts.of_project(scope, budget=DEFAULT_BUDGET)
        return answer_with(hook.platform, hook.payload, context.text)

    async def context(self, scope: Scope, *, query: str, file: str, budget: int) -> SessionContext:
        """What a new session should know; with a query, or a file that is about to be read, only the notes that fit."""
        asked = query if query.strip() else PurePosixPath(file.replace("\\", "/")).name
        if not asked:
            return await self._contexts.of_project(scope, budget=budget)
        hits = await self._recall.search(scope, asked, SearchFilter(file=file or None), limit=MOST_FITTING)
        return await self._contexts.of_notes(scope, [hit.observation for hit in hits], budget=budget)

    async def _fitting(self, scope: Scope, prompt: str) -> SessionContext:
        """The few notes that fit a prompt; none is better than one that does not."""
        hits = await self._recall.search(scope, prompt, SearchFilter(), limit=LOOKED_AT)
        words = set(_WORD.findall(prompt.lower()))
        fitting = [hit.observation for hit in hits if _fits(hit.observation, words)][:PROMPT_NOTES]
        return await self._contexts.of_notes(scope, fitting, budget=PROMPT_BUDGET)


def _fits(note: Observation, words: set[str]) -> bool:
    common = words & set(_WORD.findall(note.content.lower()))
    return len(common) >= max(COMMON_WORDS, COMMON_SHARE * min(len(words), 10))
