"""What holds for every provider: `rules`, which asks nobody, and those that ask a model."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from model_server import ModelServer, model_server
from model_wires import APIS, Api, Say
from onlooker.domain.jobs import JobKind
from onlooker.domain.lanes import LaneCondition
from onlooker.domain.models import ObservationKind, total_usage
from onlooker.providers.contract import Provider
from onlooker.providers.rules import RulesProvider
from providers.asked import provider_at
from providers.happened import asked, closed, edited, ran, request_of, stored
from waiting import wait_until

ODD = [
    stored("tool_use", "no JSON at all"),
    stored("tool_use", "[" * 3000),
    stored("", {}),
    stored("tool_use", {"tool_name": 7, "tool_input": [1], "tool_response": {"a": None}}),
    stored("user_prompt", {"prompt": ["x", {"y": 1}]}),
    stored("turn_end", "\ud7ff\u0000\u202e"),
    stored("something_new", {"deep": [[[[{"a": "b" * 9_000}]]]]}),
]


class Rig:
    """A provider and, unless it asks nobody, the server that it asks."""

    def __init__(self, provider: Provider, server: ModelServer | None) -> None:
        self.provider = provider
        self.server = server


@pytest_asyncio.fixture(params=("rules", *APIS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "rules":
        yield Rig(RulesProvider(), None)
        return
    with model_server() as server:
        async with provider_at(server, request.param) as provider:
            yield Rig(provider, server)


async def test_it_says_who_it_is_and_how_much_it_takes(rig: Rig) -> None:
    provider = rig.provider
    assert provider.name
    assert provider.prompt_version
    assert provider.longest_run >= 20
    assert provider.input_budget >= 10 * provider.weigh(ran("make"))


async def test_events_give_observations_whose_sources_are_among_them(rig: Rig) -> None:
    events = [asked("Mend the totals."), edited("a.py", "x = 1", "x = 2"), ran("make test", "2 passed in 0.1s")]
    answer = await rig.provider.generate(request_of(events))
    assert answer.drafts
    for draft in answer.drafts:
        assert draft.title
        assert draft.kind not in {ObservationKind.SUMMARY, ObservationKind.MANUAL}
        assert set(draft.sources) <= {0, 1, 2}


async def test_a_summary_is_one_draft_of_that_kind(rig: Rig) -> None:
    events = [
        asked("Mend the totals of March."),
        edited("a.py", "x = 1", "x = 2"),
        closed("The totals of March are right now; they were rounded too early."),
    ]
    answer = await rig.provider.generate(request_of(events, JobKind.SUMMARY))
    (draft,) = answer.drafts
    assert draft.kind is ObservationKind.SUMMARY


async def test_usage_counts_its_calls(rig: Rig) -> None:
    usage = total_usage((await rig.provider.generate(request_of([ran("make")]))).uses)
    if rig.server is None:
        assert usage.calls == 0
    else:
        assert (usage.calls, usage.cached_tokens) == (1, 0)
        assert usage.input_tokens > 1_000
        assert usage.output_tokens > 0
        again = total_usage((await rig.provider.generate(request_of([ran("make")]))).uses)
        assert again.cached_tokens > 1_000


async def test_odd_events_do_no_harm(rig: Rig) -> None:
    for event in ODD:
        assert rig.provider.weigh(event) >= 1
    await rig.provider.generate(request_of(ODD))
    await rig.provider.generate(request_of(ODD, JobKind.SUMMARY))
    await rig.provider.generate(request_of([]))


async def test_it_is_ready_and_its_lanes_are_open(rig: Rig) -> None:
    await asyncio.wait_for(rig.provider.ready(), 5)
    assert all(lane.condition is LaneCondition.OPEN for lane in rig.provider.lanes())
    assert len(rig.provider.lanes()) == (0 if rig.server is None else 1)


async def test_it_does_not_recover_while_nothing_is_wrong(rig: Rig) -> None:
    recovering = asyncio.create_task(rig.provider.recovered())
    await rig.provider.generate(request_of([ran("make")]))
    assert not recovering.done()
    recovering.cancel()


async def test_closing_twice_is_closing_once(rig: Rig) -> None:
    await rig.provider.generate(request_of([ran("make")]))
    await rig.provider.close()
    await rig.provider.close()


@pytest.mark.parametrize("api", APIS)
async def test_a_cancelled_call_leaves_room_for_the_next(api: Api) -> None:
    with model_server(Say(delay_s=60), Say(delay_s=60)) as server:
        async with provider_at(server, api, given={f"{api}_concurrency": 1}) as provider:
            call = asyncio.create_task(provider.generate(request_of([ran("make")])))
            waiting = asyncio.create_task(provider.generate(request_of([ran("make")])))
            await wait_until(lambda: server.running == 1)
            waiting.cancel()
            call.cancel()
            await asyncio.wait({call, waiting})
            server.script.clear()
            await asyncio.wait_for(provider.generate(request_of([ran("make MARK-1")])), 10)


@pytest.mark.parametrize("api", APIS)
async def test_only_so_many_calls_run_at_a_time(api: Api) -> None:
    with model_server() as server:
        server.delay_s = 0.02
        async with provider_at(server, api, given={f"{api}_concurrency": 3}) as provider:
            await asyncio.gather(*(provider.generate(request_of([ran(f"make {n}")])) for n in range(12)))
        assert server.most_at_once == 3


async def test_on_this_machine_two_calls_run_at_a_time_by_default() -> None:
    with model_server() as server:
        server.delay_s = 0.02
        async with provider_at(server, "openai") as provider:
            await asyncio.gather(*(provider.generate(request_of([ran(f"make {n}")])) for n in range(6)))
        assert server.most_at_once == 2
