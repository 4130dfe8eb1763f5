import pytest

from waiting import wait_until


async def test_it_returns_the_first_true_answer() -> None:
    answers = iter([0, None, 3, 4])
    assert await wait_until(lambda: next(answers)) == 3


async def test_it_awaits_an_answer_that_is_awaited() -> None:
    answers = iter([[], ["row"]])

    async def rows() -> list[str]:
        return next(answers)

    assert await wait_until(rows) == ["row"]


async def test_it_fails_with_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"still 0 after 0\.05 s"):
        await wait_until(lambda: 0, timeout_s=0.05)


async def test_an_exception_of_the_condition_is_the_callers() -> None:
    def broken() -> bool:
        raise KeyError("gone")

    with pytest.raises(KeyError):
        await wait_until(broken)
