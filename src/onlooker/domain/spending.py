"""What model calls cost, and the caps that bound it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from onlooker.domain.models import Usage

MICRO = 1_000_000
"""Micro-dollars in a dollar, and tokens in the unit that prices are given for: so a price is micro-dollars a token."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens.

    `cached` is for those of the input that the provider had in its cache, `cache_write` for those that it wrote there,
    where that costs more than to read them.
    """

    input: float
    output: float
    cached: float
    cache_write: float | None = None

    def cost_microusd(self, usage: Usage) -> int:
        """What a call cost, in millionths of a dollar."""
        written = self.input if self.cache_write is None else self.cache_write
        fresh = max(usage.input_tokens - usage.cached_tokens - usage.written_tokens, 0)
        tokens_in = fresh * self.input + usage.cached_tokens * self.cached + usage.written_tokens * written
        return round(tokens_in + usage.output_tokens * self.output)


PRICES = {
    "claude-opus-4-5": Price(5, 25, 0.5, 6.25),
    "claude-sonnet-4": Price(3, 15, 0.3, 3.75),
    "claude-haiku-4-5": Price(1, 5, 0.1, 1.25),
    "claude-3-5-haiku": Price(0.8, 4, 0.08, 1),
    "gpt-5-nano": Price(0.05, 0.4, 0.005),
    "gpt-5-mini": Price(0.25, 2, 0.025),
    "gpt-5": Price(1.25, 10, 0.125),
    "gpt-4.1-nano": Price(0.1, 0.4, 0.025),
    "gpt-4.1-mini": Price(0.4, 1.6, 0.1),
    "gpt-4.1": Price(2, 8, 0.5),
    "gpt-4o-mini": Price(0.15, 0.6, 0.075),
    "gpt-4o": Price(2.5, 10, 1.25),
    "gemini-2.5-flash-lite": Price(0.1, 0.4, 0.025),
    "gemini-2.5-flash": Price(0.3, 2.5, 0.075),
    "gemini-2.5-pro": Price(1.25, 10, 0.3125),
    "deepseek-chat": Price(0.28, 0.42, 0.028),
}
"""List prices, by how a model's name begins, as they were known in 2025. They change: the settings' own come first."""


def price_of(prices: Mapping[str, Price], model: str) -> Price | None:
    """The price of a model: that of its own name, else of the longest name that it begins with; None for none."""
    named = max((name for name in prices if model.startswith(name)), key=len, default=None)
    return None if named is None else prices[named]


@dataclass(frozen=True, slots=True)
class Amount:
    """So much of what caps bound: tokens, in and out together, and micro-dollars."""

    tokens: int = 0
    microusd: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.tokens + other.tokens, self.microusd + other.microusd)


NOTHING_SPENT = Amount()


class Period(StrEnum):
    """What a cap is for: a day or a month, by UTC."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Cap:
    """A bound on what a project (`project_id`) or a whole team (None) may spend in a period.

    `unit` is tokens, in and out together, or micro-dollars.
    """

    project_id: str | None
    period: Period
    unit: Literal["tokens", "microusd"]
    amount: int

    def is_reached(self, spent: int) -> bool:
        """Whether nothing more may be spent."""
        return spent >= self.amount

    def counts(self, spent: Amount) -> int:
        """What of it counts against this cap, in its unit."""
        return spent.tokens if self.unit == "tokens" else spent.microusd

    def __str__(self) -> str:
        of = "team" if self.project_id is None else "project"
        often = "daily" if self.period is Period.DAY else "monthly"
        much = f"{self.amount:,} tokens" if self.unit == "tokens" else f"${self.amount / MICRO:,.2f}"
        return f"the {of}'s {often} cap of {much} is reached"


@dataclass(frozen=True, slots=True)
class DefaultCaps:
    """The caps of each project, or of each team, that has none of its own; 0 is none."""

    daily_tokens: int = 0
    monthly_tokens: int = 0
    daily_usd: float = 0
    monthly_usd: float = 0

    @property
    def are_in_dollars(self) -> bool:
        """Whether one of them is."""
        return bool(self.daily_usd or self.monthly_usd)

    def of(self, project_id: str | None) -> list[Cap]:
        """As caps of a project, or of a team."""
        given: Sequence[tuple[Period, Literal["tokens", "microusd"], int]] = (
            (Period.DAY, "tokens", self.daily_tokens),
            (Period.MONTH, "tokens", self.monthly_tokens),
            (Period.DAY, "microusd", round(self.daily_usd * MICRO)),
            (Period.MONTH, "microusd", round(self.monthly_usd * MICRO)),
        )
        return [Cap(project_id, period, unit, amount) for period, unit, amount in given if amount]


NO_CAPS = DefaultCaps()


def day_of(at: int) -> str:
    """The day, by UTC, of a time in epoch milliseconds: `2026-03-31`."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")


def first_day(period: Period, at: int) -> str:
    """The first day of the period in which a time lies."""
    day = day_of(at)
    return day if period is Period.DAY else f"{day[:8]}01"


def rest_of_period_ms(period: Period, at: int) -> int:
    """How long the period in which a time lies goes on."""
    now = datetime.fromtimestamp(at / 1000, UTC)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    end = day + timedelta(days=1) if period is Period.DAY else (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return int((end - now).total_seconds() * 1000) + 1
