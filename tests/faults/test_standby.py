"""A Postgres that is lost for good, and its standby that takes over: nothing that was acknowledged is lost."""

from pathlib import Path

import pytest

from deployment import deployment
from outage import see_an_outage
from servers import PostgresServer, ServerFailed, standby_of

WORKED_ON_WITHIN_S = 40


def test_a_standby_that_is_promoted_is_found_without_a_restart(tmp_path: Path, own_postgres: PostgresServer) -> None:
    try:
        with standby_of(own_postgres) as standby:
            see_a_standby_promoted(tmp_path, own_postgres, standby)
    except ServerFailed as error:
        pytest.fail(str(error), pytrace=False)


def see_a_standby_promoted(folder: Path, primary: PostgresServer, standby: PostgresServer) -> None:
    hosts = ",".join(f"{server.host}:{server.port}" for server in (primary, standby))
    url = f"postgresql://{primary.user}:{primary.password}@{hosts}/postgres?target_session_attrs=read-write"
    settings = {"ONLOOKER_SCRIPTED_DELAY_MS": "10", "ONLOOKER_DATABASE_TIMEOUT_S": "4"}
    with deployment(folder, url, **settings) as it:
        see_an_outage(it, go=primary.kill, come_back=standby.promote, worked_on_within_s=WORKED_ON_WITHIN_S)
