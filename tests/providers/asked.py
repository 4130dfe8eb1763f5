"""Providers that ask the model server of the tests, built as the application builds them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from model_server import ModelServer
from model_wires import APIS, Api
from onlooker.parts import build_provider
from onlooker.providers.contract import Provider
from onlooker.settings import Settings, load_settings
from onlooker.storage.database import Database

KEY = "sk-test-0123456789abcdef"
HOME = Path("/nonexistent/home")


def settings_for(server: ModelServer, *apis: Api, given: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a chain of these providers, all at the server."""
    settings: dict[str, Any] = {"home": HOME, "provider": ",".join(apis)}
    for api in APIS:
        settings |= {f"{api}_base_url": server.base_url(api), f"{api}_api_key": KEY, f"{api}_timeout_s": 10}
    return load_settings(**{**settings, **(given or {})})


@asynccontextmanager
async def provider_at(
    server: ModelServer, *apis: Api, database: Database | None = None, given: Mapping[str, Any] | None = None
) -> AsyncIterator[Provider]:
    """The provider of these settings, closed afterwards."""
    provider = build_provider(settings_for(server, *apis, given=given), database)
    try:
        yield provider
    finally:
        await provider.close()
