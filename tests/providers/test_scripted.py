import asyncio

import pytest

from onlooker.domain.errors import Busy
from onlooker.domain.models import Usage, total_usage
from onlooker.providers.scripted import ScriptedProvider
from providers.happened import answer_of, ran, request_of, stored


def test_each_event_gives_one_observation_with_its_mark() -> None:
    unmarked = stored("tool_use", {"tool_name": "Bash"})
    events = [ran("npm test -- --grep MARK-run-1", "MARK-other-2"), unmarked, ran("make", "MARK-x")]
    answer = answer_of(ScriptedProvider(longest_run=50), events)
    assert [note.title for note in answer.drafts] == ["MARK-run-1", unmarked.id, "MARK-x"]
    assert [note.sources for note in answer.drafts] == [(0,), (1,), (2,)]
    assert total_usage(answer.uses) == Usage(calls=1)


def succeeds(provider: ScriptedProvider) -> bool:
    try:
        answer_of(provider, [ran("make")])
    except Busy:
        return False
    return True


def outcomes(provider: ScriptedProvider, calls: int) -> list[bool]:
    return [succeeds(provider) for _ in range(calls)]


def test_it_fails_at_its_rate_in_an_order_that_can_be_repeated() -> None:
    first = outcomes(ScriptedProvider(failure_rate=0.3), 200)
    assert 40 <= first.count(False) <= 80
    assert outcomes(ScriptedProvider(failure_rate=0.3), 200) == first
    assert outcomes(ScriptedProvider(failure_rate=0.3, seed=1), 200) != first


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_of_0_never_fails_and_of_1_always(rate: float) -> None:
    assert set(outcomes(ScriptedProvider(failure_rate=rate), 20)) == {rate == 0.0}


async def test_a_call_takes_its_delay() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await ScriptedProvider(delay_s=0.05).generate(request_of([ran("make")]))
    assert loop.time() - began >= 0.049


async def test_a_slow_call_can_be_cancelled() -> None:
    call = asyncio.create_task(ScriptedProvider(delay_s=60).generate(request_of([ran("make")])))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
