"""What model calls cost."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from onlooker.domain.models import KeyScope, Usage
from onlooker.domain.spending import MICRO
from onlooker.http.operation import Call, Operation, Reply
from onlooker.services.usage import CapState, UseReport

Day = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class UsageQuery(Struct, frozen=True, rename="camel"):
    """Which use to tell: of one project, between two days by UTC, both included."""

    project_id: str | None = None
    since: Day | None = None
    until: Day | None = None


class UseView(Struct, rename="camel"):
    """Tokens, calls and cost; `costUsd` is null where that of nothing in it is known."""

    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float | None

    @classmethod
    def of(cls, usage: Usage, microusd: int | None) -> "UseView":
        """The view of some use."""
        return cls(usage.calls, usage.input_tokens, usage.cached_tokens, usage.output_tokens, _usd(microusd))


class DayView(Struct, rename="camel"):
    """A day's use of one model in one project; `costUsd` is null where no price of the model is known."""

    day: str
    project_id: str
    provider: str
    model: str
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float | None


class CapView(Struct, rename="camel"):
    """A cap of a project (else of the team), in tokens or US dollars, and what is spent of it."""

    project_id: str | None
    period: str
    unit: str
    amount: float
    spent: float
    reached: bool


class UsageView(Struct, rename="camel"):
    """Use by day, project and model, the latest day first, in all, and against the caps.

    What the `unpricedModels` cost is not known, and not in the total's `costUsd`.
    """

    days: list[DayView]
    total: UseView
    unpriced_models: list[str]
    caps: list[CapView]

    @classmethod
    def of(cls, report: UseReport) -> "UsageView":
        """The view of a report."""
        days = [
            DayView(
                day.day,
                day.project_id,
                day.provider,
                day.model,
                day.usage.calls,
                day.usage.input_tokens,
                day.usage.cached_tokens,
                day.usage.output_tokens,
                _usd(report.cost_of(day)),
            )
            for day in report.days
        ]
        total = UseView.of(report.total, report.cost_microusd)
        return cls(days, total, report.left_out, [_cap(state) for state in report.caps])


def _usd(microusd: int | None) -> float | None:
    return None if microusd is None else round(microusd / MICRO, 6)


def _cap(state: CapState) -> CapView:
    by = 1 if state.cap.unit == "tokens" else MICRO
    unit = "tokens" if state.cap.unit == "tokens" else "usd"
    amount, spent = state.cap.amount / by, state.spent / by
    reached = state.cap.is_reached(state.spent)
    return CapView(state.cap.project_id, str(state.cap.period), unit, amount, spent, reached)


def usage_view(report: UseReport) -> dict[str, Any]:
    """A report as `GET /v1/usage` tells it."""
    told: dict[str, Any] = msgspec.to_builtins(UsageView.of(report))
    return told


def cap_view(state: CapState) -> dict[str, Any]:
    """A cap as `GET /v1/usage` tells it."""
    told: dict[str, Any] = msgspec.to_builtins(_cap(state))
    return told


async def show_usage(call: Call) -> Reply:
    """Tell what the calls of the projects that the key reaches have cost."""
    query: UsageQuery = call.query
    project_id = None
    if query.project_id is not None:
        project_id = (await call.services.accounts.resolve_project(call.principal, query.project_id)).project_id
    report = await call.services.spending.report(call.principal, project_id, since=query.since, until=query.until)
    return Reply(UsageView.of(report))


OPERATIONS = (
    Operation(
        "GET", "/v1/usage", "What model calls cost", show_usage, {200: UsageView}, KeyScope.READ, query=UsageQuery
    ),
)  # fmt: skip
