import pytest

from databases import KINDS


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str | None:
    """An empty database, which the first process migrates. None is the default: SQLite in the home."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture(params=[*KINDS, "postgres and redis"])
def stores(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that name an empty database and where the queue is: in it, or in a Redis."""
    if request.param == "sqlite":
        return {}
    settings = {"ONLOOKER_DATABASE_URL": request.getfixturevalue("postgres_database")}
    if request.param == "postgres":
        return settings
    redis = {"ONLOOKER_QUEUE_ENGINE": "bullmq", "ONLOOKER_REDIS_URL": request.getfixturevalue("redis_database")}
    return {**settings, **redis}
