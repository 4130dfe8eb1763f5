"""Prices, caps and the days that they are counted by."""

import pytest

from onlooker.domain.models import Usage
from onlooker.domain.spending import (
    PRICES,
    Cap,
    DefaultCaps,
    Period,
    Price,
    day_of,
    first_day,
    price_of,
    rest_of_period_ms,
)

LEAP_DAY = 1_709_251_199_999
"""2024-02-29, a millisecond before midnight, by UTC."""


def test_a_call_costs_its_fresh_and_its_cached_tokens_and_its_answer() -> None:
    usage = Usage(calls=1, input_tokens=1_000, output_tokens=100, cached_tokens=400)
    assert Price(3, 15, 0.3).cost_microusd(usage) == 600 * 3 + 120 + 1_500


def test_what_is_written_into_the_cache_has_its_own_price_where_there_is_one() -> None:
    usage = Usage(calls=1, input_tokens=1_000, cached_tokens=400, written_tokens=500)
    assert Price(3, 15, 0.3).cost_microusd(usage) == 600 * 3 + 120
    assert Price(3, 15, 0.3, 3.75).cost_microusd(usage) == 100 * 3 + 120 + 1_875
    assert (usage + usage).written_tokens == 1_000


def test_every_known_price_of_claude_has_its_surcharge() -> None:
    written = {name: price.cache_write for name, price in PRICES.items() if name.startswith("claude")}
    assert written == {name: pytest.approx(PRICES[name].input * 1.25) for name in written}


def test_a_model_has_the_price_of_the_longest_name_that_it_begins_with() -> None:
    prices = {"m": Price(1, 1, 1), "m-small": Price(2, 2, 2)}
    assert price_of(prices, "m-small-2026-01-01") == prices["m-small"]
    assert price_of(prices, "m-large") == prices["m"]
    assert price_of(prices, "other") is None


def test_every_known_price_is_less_for_cached_tokens_and_more_for_answers() -> None:
    assert all(0 < price.cached < price.input < price.output for price in PRICES.values())


def test_a_day_and_a_month_end_at_midnight_by_utc() -> None:
    assert (day_of(LEAP_DAY), day_of(LEAP_DAY + 1)) == ("2024-02-29", "2024-03-01")
    assert (first_day(Period.DAY, LEAP_DAY), first_day(Period.MONTH, LEAP_DAY)) == ("2024-02-29", "2024-02-01")
    for period in Period:
        assert 0 < rest_of_period_ms(period, LEAP_DAY) <= 2
    december = 1_765_000_000_000
    assert day_of(december + rest_of_period_ms(Period.MONTH, december)) == "2026-01-01"


@pytest.mark.parametrize(
    "cap, said",
    [
        (Cap("p", Period.DAY, "tokens", 1_000), "the project's daily cap of 1,000 tokens is reached"),
        (Cap(None, Period.MONTH, "microusd", 2_500_000), "the team's monthly cap of $2.50 is reached"),
    ],
)
def test_a_cap_says_what_it_is(cap: Cap, said: str) -> None:
    assert str(cap) == said
    assert cap.is_reached(cap.amount)
    assert not cap.is_reached(cap.amount - 1)


def test_settings_of_0_cap_nothing() -> None:
    assert DefaultCaps().of("p") == []
    assert DefaultCaps(daily_tokens=5, monthly_usd=0.5).of(None) == [
        Cap(None, Period.DAY, "tokens", 5), Cap(None, Period.MONTH, "microusd", 500_000),
    ]  # fmt: skip
