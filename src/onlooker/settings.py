"""Every setting, its default and its check; the only reader of the environment (the hook client aside).

Values come from `ONLOOKER_…` variables, else from `settings.toml` in the home, else from the defaults here.
"""

import os
import tomllib
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from onlooker.domain.errors import Misconfigured
from onlooker.domain.jobs import MAX_ATTEMPTS

PREFIX = "ONLOOKER_"
SETTINGS_FILE = "settings.toml"
DEFAULT_HOME = "~/.onlooker"
DEFAULT_PORT = 37878


class AuthMode(StrEnum):
    """How requests are authenticated. `LOCAL_DEV` also needs `allow_local_dev_bypass` and a loopback peer."""

    API_KEY = "api-key"
    LOCAL_DEV = "local-dev"


class QueueChoice(StrEnum):
    """Which engine carries the queue."""

    SQL = "sql"
    BULLMQ = "bullmq"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseModel):
    """The settings of one process. A field's description is what `docs/configuration.md` says of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    home: Path = Field(
        Path(DEFAULT_HOME),
        description="Where the database, the key, the logs and the state files live.",
        examples=["/srv/onlooker"],
    )
    host: str = Field("127.0.0.1", description="The address to listen on.", examples=["0.0.0.0"])  # noqa: S104 - an example
    port: int = Field(
        DEFAULT_PORT,
        ge=0,
        le=65535,
        description="The port to listen on; 0 takes a free one and names it in the port file.",
        examples=["8080"],
    )
    database_url: str = Field(
        "",
        description=(
            "Empty: SQLite in the home. Else `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`, "
            "with TLS by `?sslmode=verify-full&sslrootcert=FILE`."
        ),
        examples=["postgresql://onlooker:secret@db.example/onlooker"],
    )
    database_direct_url: str = Field(
        "",
        description=(
            "The same Postgres past its pooler, where `database_url` names a PgBouncer: for listening and migrations."
        ),
        examples=["postgresql://onlooker:secret@db.example:5432/onlooker"],
    )
    database_pool_size: int = Field(
        10, ge=1, le=200, description="Postgres connections of one process, for each of its two pools.", examples=["20"]
    )
    database_timeout_s: float = Field(
        10, gt=0, le=600, description="How long to wait for a Postgres connection.", examples=["5"]
    )
    database_statement_timeout_s: float = Field(
        30, ge=1, le=600, description="How long Postgres may work on one statement.", examples=["10"]
    )
    database_transaction_timeout_s: float = Field(
        60, ge=1, le=3600, description="How long a transaction may take (Postgres 17 and newer).", examples=["30"]
    )
    queue_engine: QueueChoice = Field(
        QueueChoice.SQL, description="`sql` keeps the queue in the database.", examples=["sql"]
    )
    provider: str = Field(
        "rules", description="What turns events into observations. `rules` needs no model.", examples=["rules"]
    )
    log_level: LogLevel = Field(
        LogLevel.INFO, description="How much is logged: debug, info, warning or error.", examples=["debug"]
    )
    auth_mode: AuthMode = Field(
        AuthMode.API_KEY,
        description="`api-key`, or `local-dev` for loopback requests without a key.",
        examples=["local-dev"],
    )
    allow_local_dev_bypass: bool = Field(
        False, description="Must be set too for `local-dev` to be accepted.", examples=["1"]
    )
    worker_concurrency: int = Field(
        32, ge=1, le=1000, description="How many sessions one worker process serves at a time.", examples=["8"]
    )
    job_lease_s: float = Field(
        60, ge=1, le=3600, description="How long a worker holds a job without renewing it.", examples=["120"]
    )
    max_attempts: int = Field(
        MAX_ATTEMPTS, ge=1, le=100, description="How often a job is tried before it is dead-lettered.", examples=["3"]
    )
    max_waiting_events: int = Field(
        10_000,
        ge=1,
        description="Events that may wait for the database; past it requests get 503 with Retry-After.",
        examples=["2000"],
    )
    startup_wait_s: float = Field(
        10, ge=0, le=600, description="How long to wait for the database at start before giving up.", examples=["30"]
    )
    allow_test_provider: bool = Field(
        False, description="Allows the `scripted` provider, which is for load and fault tests.", examples=["1"]
    )
    scripted_delay_ms: int = Field(0, ge=0, description="`scripted` only: how long a call takes.", examples=["200"])
    scripted_failure_rate: float = Field(
        0, ge=0, le=1, description="`scripted` only: the share of calls that fail.", examples=["0.1"]
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return url

    @field_validator("database_direct_url")
    @classmethod
    def _postgres(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return url

    @property
    def database(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'onlooker.db'}"


def origins() -> dict[str, str]:
    """Where each setting's value comes from: `environment`, `settings.toml` or `default`.

    Raises `Misconfigured` when the file cannot be read.
    """
    given, filed = _from_environment(), _from_file()
    return {
        name: "environment" if name in given else SETTINGS_FILE if name in filed else "default"
        for name in Settings.model_fields
    }


def load_settings(**given: object) -> Settings:
    """The settings of this process; `given` wins over the environment and the file.

    Raises `Misconfigured` with every problem at once, each naming its variable.
    """
    try:
        return Settings.model_validate({**_from_file(), **_from_environment(), **given})
    except ValidationError as error:
        problems = [
            f"{PREFIX}{'_'.join(str(part) for part in issue['loc']).upper()}: {issue['msg']}"
            for issue in error.errors()
        ]
        raise Misconfigured(problems) from error


def _from_environment() -> dict[str, str]:
    """Settings by name. A variable that is set to nothing is not set."""
    values = {name: os.environ.get(PREFIX + name.upper()) for name in Settings.model_fields}
    return {name: value for name, value in values.items() if value}


def _from_file() -> dict[str, object]:
    """What the file in the home says; nothing where there is none. Raises `Misconfigured`."""
    path = Path(os.environ.get(PREFIX + "HOME") or DEFAULT_HOME).expanduser() / SETTINGS_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise Misconfigured([f"{path} cannot be read: {error}"]) from error
