"""A provider that asks a model: prompt, call, at most one repair round, drafts."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from onlooker.domain.errors import (
    BadSettings,
    Busy,
    InvalidInput,
    NotFound,
    ProviderError,
    Rejected,
    TooLong,
    Unreadable,
)
from onlooker.domain.lanes import LaneState
from onlooker.domain.models import Event, ModelUse, Usage
from onlooker.domain.modes import Mode
from onlooker.providers.answers import Problem, Reading, read_answer
from onlooker.providers.classify import Failure, failure_of, provider_error
from onlooker.providers.contract import GenerationAnswer, GenerationRequest
from onlooker.providers.http_client import HttpClient, Response
from onlooker.providers.lane import HELD_S, Lane
from onlooker.providers.limits import retry_after_s, used_up_for_s
from onlooker.providers.modes import Modes
from onlooker.providers.prompt import PROMPT_VERSION, Form, Prompt, Task, build_prompt
from onlooker.providers.rendering import Renderer
from onlooker.providers.wire import MAX_OUTPUT_TOKENS, Reply, Stop, Turn, Wire

LONGEST_RUN = 40
"""Events of one call. More make answers that reach the limit and are cut."""

LONGEST_ANSWER = 262_144
"""Characters of an answer that are looked at; the limit in tokens ends a good one far earlier."""

LONGEST_REPEATED = 4_000
"""Characters of an unusable answer that go back to the model with the complaint."""

LONG_PROMPT_TOKENS = 3_000
"""A longer prompt that is refused without a named reason may be refused for its length: some servers name none."""

MOST_SHRINKS = 2
IGNORED_TWICE = 2
_OK = 200
_TOO_MANY = 429
_MAY_BE_ABOUT_STRUCTURE = frozenset({400, 415, 422, 501})


class ModelProvider:
    """One endpoint. What it is found to understand (structured output, names of parameters) is remembered."""

    longest_run = LONGEST_RUN

    def __init__(
        self,
        wire: Wire,
        lane: Lane,
        client: HttpClient,
        modes: Modes,
        *,
        input_budget: int,
        timeout_s: float,
    ) -> None:
        self.name = wire.name
        self.prompt_version = PROMPT_VERSION
        self.input_budget = input_budget
        self.lane = lane
        self._wire = wire
        self._client = client
        self._modes = modes
        self._timeout_s = timeout_s
        self._renderer = Renderer()
        self._form = Form.STRUCTURED
        self._takes_structure = False
        self._ignored = 0

    def weigh(self, event: Event) -> int:
        """See `Provider`."""
        return self._renderer.render(event).tokens

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        """See `Provider`. One event that is too long by the endpoint's own measure is cut shorter, twice at most."""
        try:
            mode = self._modes.get(request.mode)
        except (NotFound, InvalidInput) as error:
            raise BadSettings(str(error), retry_after_s=HELD_S) from error
        uses: list[ModelUse] = []
        try:
            answer = await self._ask_shortened(request, mode, uses)
        except ProviderError as error:
            error.uses = tuple(uses)
            raise
        version = f"{PROMPT_VERSION}/{self._modes.version_of(mode)}"
        return replace(answer, uses=tuple(uses), provider=self.name, prompt_version=version)

    async def _ask_shortened(self, request: GenerationRequest, mode: Mode, uses: list[ModelUse]) -> GenerationAnswer:
        """Ask about what fits. What each call uses is added to `uses` as soon as it is known."""
        budget = self.input_budget
        for shrinks in range(MOST_SHRINKS + 1):
            prompt = build_prompt(request, mode, self._renderer, budget)
            try:
                async with self.lane.turn():
                    return await self._ask_in_time(prompt, uses)
            except TooLong:
                can_split = prompt.count > 1 and prompt.task is Task.OBSERVE
                if can_split or shrinks == MOST_SHRINKS:
                    raise
                budget = min(budget, sum(self.weigh(event) for event in request.events)) // 2
        raise AssertionError  # the last round has returned or raised

    async def ready(self) -> None:
        """See `Provider`."""
        await self.lane.ready()

    async def recovered(self) -> None:
        """See `Provider`."""
        await self.lane.opened()

    def lanes(self) -> tuple[LaneState, ...]:
        """See `Provider`."""
        return (self.lane.state,)

    async def close(self) -> None:
        """See `Provider`."""
        await self._client.close()

    async def _ask_in_time(self, prompt: Prompt, uses: list[ModelUse]) -> GenerationAnswer:
        """Call, repair and reading within the one deadline (R11). What it cuts off is taken to cost the most it may."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(prompt, uses)
        except TimeoutError:
            # Most providers bill what a model has written for nobody; a slow one must not be asked for ever unseen.
            uses.append(ModelUse(self.name, self._wire.model, Usage(1, prompt.tokens, MAX_OUTPUT_TOKENS)))
            error = Busy(f"{self._who}: no answer within {self._timeout_s:g} s")
            await self.lane.failed(error)
            raise error from None

    async def _ask(self, prompt: Prompt, uses: list[ModelUse]) -> GenerationAnswer:
        form = self._form
        turns: tuple[Turn, ...] = ()
        problem = Problem("")
        for _ in range(2):
            reply = await self._call(prompt, form, turns)
            uses.append(ModelUse(self.name, reply.model or self._wire.model, reply.usage))
            found = self._read(reply, prompt)
            if isinstance(found, Reading):
                if turns and form is not self._form:
                    self._note_ignored()
                return GenerationAnswer(
                    found.drafts, model=reply.model, skip_reason=found.skip_reason, answered=found.answered
                )
            problem = found
            if problem.error is not None:
                await self._raise_error_object(problem.error)
            if not problem.can_repair:
                break
            form = _repair_form(form, reply)
            turns = (Turn(_repeated(reply), _complaint(problem, prompt, form)),)
        raise Unreadable(f"{self._who}: the answer cannot be used: {problem.what}")

    def _read(self, reply: Reply, prompt: Prompt) -> Reading | Problem:
        """What a reply says. Raises what its stop reason means."""
        if reply.stop is Stop.REFUSED:
            raise Rejected(f"{self._who}: the content is refused")
        if reply.stop is Stop.TOO_LONG:
            raise TooLong(f"{self._who}: the prompt fills the model's context")
        if reply.error is not None:
            return Problem("it is an error of the endpoint", can_repair=False, error=reply.error)
        found = read_answer(reply.text[:LONGEST_ANSWER], reply.data, prompt, cut_by_limit=reply.stop is Stop.LENGTH)
        if isinstance(found, Reading) and found.is_cut:
            kind = TooLong if prompt.count > 1 and prompt.task is Task.OBSERVE else Unreadable
            raise kind(f"{self._who}: the answer was cut by the limit of its length")
        return found

    async def _raise_error_object(self, body: Mapping[str, Any]) -> None:
        """Raise what an error object in the place of an answer means by its names; return where it has none."""
        failure = failure_of(_OK, body)
        kind = failure.kind
        if kind is not None:
            error = provider_error(failure, kind, who=self._who, retry_after_s=None)
            await self.lane.failed(error, is_limit=failure.status == _TOO_MANY)
            raise error

    async def _call(self, prompt: Prompt, form: Form, turns: Sequence[Turn]) -> Reply:
        """One answer; asked again at once only in a way that the endpoint understands."""
        in_form = form
        adapted = False
        while True:
            response, body = await self._send(prompt, in_form, turns)
            if response.status == _OK:
                await self._note_good(response, in_form, fell_back=in_form is not form)
                return self._wire.read(body)
            failure = failure_of(response.status, body)
            if failure.kind is None and not adapted and self._wire.adapts(failure.parameters):
                adapted = True
            elif in_form is Form.STRUCTURED and self._may_refuse_structure(failure):
                in_form = Form.JSON
            else:
                break
        kind = failure.kind
        if kind is None:
            kind = TooLong if prompt.tokens > LONG_PROMPT_TOKENS else Rejected
        wait_s = retry_after_s(response.headers, body, time.time())
        error = provider_error(failure, kind, who=self._who, retry_after_s=wait_s)
        await self.lane.failed(error, is_limit=response.status == _TOO_MANY)
        raise error

    async def _send(self, prompt: Prompt, form: Form, turns: Sequence[Turn]) -> tuple[Response, Any]:
        """A response and its JSON. Raises `Busy` for none, and for a good one without JSON: that is no model's API."""
        asked = self._wire.request(prompt, form, turns)
        content = msgspec.json.encode(asked.body)
        try:
            response = await self._client.post(asked.url, asked.headers, content, self._timeout_s)
        except ProviderError as error:
            await self.lane.failed(error)
            raise
        try:
            body = json.loads(response.body)
        except (ValueError, RecursionError):
            body = None
        if response.status == _OK and not isinstance(body, Mapping):
            no_api = Busy(f"{self._who}: 200 without a JSON object")
            await self.lane.failed(no_api)
            raise no_api
        return response, body

    def _may_refuse_structure(self, failure: Failure) -> bool:
        """Whether a refusal is about structured output: it says so, or names no reason and that never worked here."""
        is_unnamed = failure.kind is None and failure.status in _MAY_BE_ABOUT_STRUCTURE
        return failure.is_about_structure or (is_unnamed and not self._takes_structure)

    async def _note_good(self, response: Response, form: Form, *, fell_back: bool) -> None:
        if form is Form.STRUCTURED:
            self._takes_structure = True
        elif fell_back:
            self._form = Form.JSON
        await self.lane.succeeded(used_up_for_s(response.headers, time.time()))

    def _note_ignored(self) -> None:
        """An answer was only usable when asked for in words: an endpoint that takes a schema and ignores it."""
        self._ignored += 1
        if self._ignored >= IGNORED_TWICE and self._form is Form.STRUCTURED:
            self._form = Form.JSON

    @property
    def _who(self) -> str:
        return f"{self.name} at {self._wire.endpoint}"


def _repair_form(form: Form, reply: Reply) -> Form:
    """How to ask again: as before where data came, else one step nearer to what any model can do."""
    if form is Form.STRUCTURED:
        return form if reply.data is not None else Form.JSON
    return Form.TAGS


def _repeated(reply: Reply) -> str:
    text = reply.text if reply.data is None else json.dumps(reply.data, ensure_ascii=False)
    return text[:LONGEST_REPEATED].strip() or "…"


def _complaint(problem: Problem, prompt: Prompt, form: Form) -> str:
    return f"That answer cannot be used: {problem.what}. {prompt.closing(form)}"
