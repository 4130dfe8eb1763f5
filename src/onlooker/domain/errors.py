"""Every error that Onlooker raises on purpose, one root.

A class says what kind of failure it is, its attributes say which one; no code
decides anything by reading a message. `http.asgi` maps classes to status codes,
`cli.main` maps them to exit codes, and both do it in one table.
"""

from collections.abc import Sequence

from onlooker.domain.models import ModelUse


class OnlookerError(Exception):
    """The root. Its message is one sentence for a person, without the content of events."""


class InvalidInput(OnlookerError):
    """A request or a file has a wrong shape; `issues` names each wrong place as `path: what is wrong`."""

    def __init__(self, message: str, issues: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(issues)


class Unauthenticated(OnlookerError):
    """No key was given."""


class Forbidden(OnlookerError):
    """The key is unknown, expired or revoked, or its scope does not reach this."""


class NotFound(OnlookerError):
    """No such thing, or it belongs to another tenant: the two look the same on purpose."""


class TooLarge(OnlookerError):
    """A body or a batch is over its limit."""


class RateLimited(OnlookerError):
    """Too many requests; `retry_after_s` says when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(OnlookerError):
    """The thing is in a state that does not allow this."""


class IllegalTransition(Conflict):
    """A job cannot go from the status it has to the one that was asked for."""


class Unavailable(OnlookerError):
    """A part that is needed is not there right now; `retry_after_s` says when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageUnavailable(Unavailable):
    """The database cannot be reached, is locked, full or read-only.

    Nothing of the transaction was stored, unless `outcome_unknown`: then the commit was sent and its reply was lost,
    so read again before anything else. One that `is_damaged` does not come back by waiting; one that `is_brief` is
    of one transaction (a deadlock, a limit of time, a pool that is in use) and tells nothing of the next.
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float = 1.0,
        *,
        outcome_unknown: bool = False,
        is_damaged: bool = False,
        is_brief: bool = False,
    ) -> None:
        super().__init__(message, retry_after_s)
        self.outcome_unknown = outcome_unknown
        self.is_damaged = is_damaged
        self.is_brief = is_brief


class QueueUnavailable(Unavailable):
    """The queue cannot be reached; the message names host, port and cause."""


class ClaimLost(OnlookerError):
    """The lease of a claim or a job is gone: somebody else may hold it, so stop and write nothing."""


class ProviderError(OnlookerError):
    """A model call failed. `retryable` says whether the same call may succeed later, `retry_after_s` when.

    `uses` are of the calls that were made in vain; `provider` is the name of the one that failed, where known.
    """

    def __init__(self, message: str, *, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.uses: tuple[ModelUse, ...] = ()
        self.provider: str | None = None


class Rejected(ProviderError):
    """The provider refuses this content or this request; asking again gives the same answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class TooLong(ProviderError):
    """The request, or the answer that it needs, is longer than the model takes: fewer events at a time may do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class Exhausted(ProviderError):
    """Quota or billing: no call of this provider will succeed until somebody acts. Jobs are held."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retryable=True, retry_after_s=retry_after_s)


class BadSettings(Exhausted):
    """The provider does not take the key, or knows no such model: a setting has to be changed. Jobs are held."""


class Busy(ProviderError):
    """Rate limit, overload, timeout or a server error: the provider's failure, not the job's."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retryable=True, retry_after_s=retry_after_s)


class Unreadable(ProviderError):
    """The answer came and could not be understood, after the one repair round."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class Misconfigured(OnlookerError):
    """Settings are wrong or a chosen part is not there at start: exit code 2. Lists every problem at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
