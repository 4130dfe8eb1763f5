"""Who asks: a key in the request becomes a principal, before anything of the body is read."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from onlooker.domain.errors import Forbidden, Unauthenticated
from onlooker.domain.models import KeyScope, Principal
from onlooker.http.request import Request
from onlooker.services.accounts import Accounts
from onlooker.settings import AuthMode, Settings

FORWARDING_HEADERS = frozenset({b"forwarded", b"via", b"x-real-ip", b"cf-connecting-ip", b"true-client-ip"})
FORWARDING_PREFIX = b"x-forwarded-"
BEARER = "bearer "


class Guard:
    """Admits requests by their key; in local development, loopback requests without one."""

    def __init__(self, accounts: Accounts, settings: Settings) -> None:
        self._accounts = accounts
        self._home = settings.home
        self._bypass = settings.auth_mode is AuthMode.LOCAL_DEV and settings.allow_local_dev_bypass

    async def admit(self, request: Request, scope: KeyScope) -> Principal:
        """The principal of a request. Raises `Unauthenticated` without a key, `Forbidden` for one that does not do."""
        key = key_of(request)
        if key is None:
            if self._bypass and is_local(request):
                return (await self._accounts.ensure_local(self._home)).principal
            raise Unauthenticated("send a key as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'")
        principal = await self._accounts.authenticate(key)
        if not principal.may(scope):
            raise Forbidden(f"the key's scopes do not include {scope}")
        return principal

    async def admit_monitor(self, request: Request) -> None:
        """Let in who asks from this machine itself, and every key that may read. Raises as `admit` does."""
        if not is_local(request):
            await self.admit(request, KeyScope.READ)


def key_of(request: Request) -> str | None:
    """The key that a request carries, if any."""
    given = request.header(b"authorization")
    if given[: len(BEARER)].lower() == BEARER:
        return given[len(BEARER) :].strip() or None
    return request.header(b"x-api-key") or None


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine itself, and not through something that stands before the server.

    A browser on this machine is something of that kind where a page of another site sent it: it says so in `Origin`.
    """
    if request.peer is None or any(map(_tells_of_forwarding, request.headers)):
        return False
    origin = request.header(b"origin")
    if origin and not _names_this_machine(origin.partition("://")[2]):
        return False
    return _is_loopback(request.peer) and _names_this_machine(request.header(b"host"))


def _tells_of_forwarding(name: bytes) -> bool:
    return name in FORWARDING_HEADERS or name.startswith(FORWARDING_PREFIX)


def _names_this_machine(authority: str) -> bool:
    try:
        host = urlsplit("//" + authority).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or _is_loopback(host)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
