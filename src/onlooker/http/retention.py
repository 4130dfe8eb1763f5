"""How long a project keeps what it has."""

from typing import Annotated

from msgspec import Meta, Struct

from onlooker.domain.models import KeyScope, Scope
from onlooker.http.operation import Call, Operation, Reply
from onlooker.services.retention import MOST_DAYS
from onlooker.storage.retention import Retention

Days = Annotated[int, Meta(ge=1, le=MOST_DAYS)]


class RetentionBody(Struct, rename="camel"):
    """For how many days events, and observations, are kept; null, or nothing said, means for ever."""

    events_days: Days | None = None
    observations_days: Days | None = None


class RetentionView(Struct, rename="camel"):
    """For how many days a project keeps events, and observations; null means for ever."""

    project_id: str
    events_days: int | None
    observations_days: int | None

    @classmethod
    def of(cls, scope: Scope, kept: Retention) -> "RetentionView":
        """The view of what holds for a project."""
        return cls(scope.project_id, kept.events_days, kept.observations_days)


async def get_retention(call: Call) -> Reply:
    """Tell how long a project keeps what it has."""
    scope = await call.services.accounts.project_in_path(call.principal, call.path["project_id"])
    return Reply(RetentionView.of(scope, await call.services.retaining.get(scope)))


async def put_retention(call: Call) -> Reply:
    """Let this hold for a project; what is too old by it goes within a day."""
    body: RetentionBody = call.body
    scope = await call.services.accounts.project_in_path(call.principal, call.path["project_id"])
    wanted = Retention(body.events_days, body.observations_days)
    await call.services.retaining.put(call.principal, scope, wanted)
    return Reply(RetentionView.of(scope, wanted))


OPERATIONS = (
    Operation(
        "GET", "/v1/projects/{project_id}/retention", "How long a project keeps what it has", get_retention,
        {200: RetentionView}, KeyScope.READ,
    ),
    Operation(
        "PUT", "/v1/projects/{project_id}/retention", "Say how long a project keeps what it has", put_retention,
        {200: RetentionView}, KeyScope.ADMIN, RetentionBody,
    ),
)  # fmt: skip
