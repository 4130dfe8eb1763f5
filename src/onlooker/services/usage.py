"""What a team's model calls cost, what bounds them, and how its projects' events are put into calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onlooker.domain.batching import GenerationPolicy
from onlooker.domain.errors import Forbidden
from onlooker.domain.models import NO_USAGE, Principal, Scope, Usage
from onlooker.domain.spending import Cap, DefaultCaps, Price, price_of
from onlooker.storage import accounts, spending
from onlooker.storage.database import Connection, Database
from onlooker.storage.spending import DayOfUse

TEAM_IS_NOT_REACHED = "this key is bound to a project, and that is a matter of the whole team"


@dataclass(frozen=True, slots=True)
class CapState:
    """A cap, and what is spent in its period so far."""

    cap: Cap
    spent: int


@dataclass(frozen=True, slots=True)
class UseReport:
    """What was used in some days: each day's use by project, provider and model, all of it together, and the caps.

    `unpriced` are the models of which no price is known.
    """

    days: Sequence[DayOfUse]
    total: Usage
    caps: Sequence[CapState]
    unpriced: frozenset[str]

    @property
    def cost_microusd(self) -> int | None:
        """What all of it cost in micro-dollars, without `left_out`; None where nothing else was used."""
        known = [cost for day in self.days if (cost := self.cost_of(day)) is not None]
        return sum(known) if known or not self.days else None

    @property
    def left_out(self) -> list[str]:
        """The models whose cost, or a part of it, is not known."""
        return sorted({day.model for day in self.days if self.cost_of(day) is None})

    def cost_of(self, day: DayOfUse) -> int | None:
        """What a day's use cost in micro-dollars, None where that is not known."""
        return None if day.cost_microusd == 0 and day.model in self.unpriced else day.cost_microusd


class Spending:
    """Every method raises `StorageUnavailable`."""

    def __init__(
        self,
        database: Database,
        *,
        project_caps: DefaultCaps,
        team_caps: DefaultCaps,
        prices: Mapping[str, Price],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._project_caps = project_caps
        self._team_caps = team_caps
        self._prices = prices
        self._now_ms = now_ms

    async def report(
        self, principal: Principal, project_id: str | None, *, since: str | None = None, until: str | None = None
    ) -> UseReport:
        """The use of a project, or of all that the principal reaches, between two days by UTC, both included.

        The caps are those of the project where there is one, and the team's where the principal reaches all of it.
        """
        project_id = principal.project_id or project_id

        def look(conn: Connection) -> UseReport:
            days = spending.list_usage(conn, principal.team_id, project_id, since=since, until=until)
            total = NO_USAGE
            for day in days:
                total += day.usage
            caps = self._caps(conn, principal, project_id)
            unpriced = frozenset(day.model for day in days if price_of(self._prices, day.model) is None)
            return UseReport(days, total, caps, unpriced)

        return await self._database.read(look)

    async def caps(self, principal: Principal, project_id: str | None) -> list[CapState]:
        """The caps of a project, or of all that the principal reaches; the team's where it reaches all of it."""
        project_id = principal.project_id or project_id
        return await self._database.read(lambda conn: self._caps(conn, principal, project_id))

    async def set_cap(self, principal: Principal, cap: Cap, *, remove: bool = False) -> None:
        """Give a project or the team a cap of its own (an amount of 0: none at all), or take it away again.

        Ring what caps held afterwards: see `Jobs.resume`. Raises `Forbidden` for what the principal does not reach.
        """
        if principal.project_id not in {None, cap.project_id}:
            raise Forbidden(TEAM_IS_NOT_REACHED)
        await self._database.tx(lambda conn: spending.set_cap(conn, principal.team_id, cap, remove=remove))

    async def policy(self, scope: Scope) -> GenerationPolicy | None:
        """The policy that a project has of its own; None where the settings decide."""
        return await self._database.read(lambda conn: accounts.policy_of(conn, scope))

    async def set_policy(self, scope: Scope, policy: GenerationPolicy | None) -> None:
        """Give a project a policy of its own, or with None that of the settings; workers follow at once."""
        await self._database.tx(lambda conn: accounts.set_policy(conn, scope, policy))

    def _caps(self, conn: Connection, principal: Principal, project_id: str | None) -> list[CapState]:
        wanted = [each.id for each in accounts.list_projects(conn, principal.team_id) if project_id in {None, each.id}]
        now = self._now_ms()
        states: dict[Cap, CapState] = {}
        for scope in [Scope(principal.team_id, each) for each in wanted]:
            caps = spending.caps_of(conn, scope, self._project_caps, self._team_caps)
            spent = spending.spent_of(conn, scope, now) if caps else {}
            for cap in caps:
                states[cap] = CapState(cap, cap.counts(spent[cap.project_id, cap.period]))
        return [state for state in states.values() if state.cap.project_id or principal.project_id is None]
