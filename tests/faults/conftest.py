import pytest

from databases import KINDS


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str | None:
    """An empty database, which the first process migrates. None is the default: SQLite in the home."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_database")
    return url
