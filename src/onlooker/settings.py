"""Every setting, its default and its check; the only reader of the environment (the hook client aside).

Values come from `ONLOOKER_…` variables, else from `settings.toml` in the home, else from the defaults here.
"""

import json
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from onlooker.domain.batching import DEBOUNCE_MS, GenerationPolicy
from onlooker.domain.errors import Misconfigured
from onlooker.domain.jobs import MAX_ATTEMPTS
from onlooker.domain.spending import DefaultCaps, Price

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


class RedisMode(StrEnum):
    """Who runs the Redis of the queue."""

    EXTERNAL = "external"
    MANAGED = "managed"
    DOCKER = "docker"


class EmbedderChoice(StrEnum):
    """What turns notes and questions into vectors."""

    NONE = "none"
    LOCAL = "local"
    OPENAI = "openai"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _model(default: str) -> str:
    """The model of a provider."""
    field: str = Field(default, min_length=1, description="The model that is asked.", examples=[default])
    return field


def _api_key(example: str) -> SecretStr:
    """The key of a provider; never shown."""
    field: SecretStr = Field(
        SecretStr(""), description="The key. A server on this machine mostly needs none.", examples=[example]
    )
    return field


def _base_url(default: str, example: str) -> str:
    """Where a provider is."""
    field: str = Field(default, description="Where the API is: any server that speaks it will do.", examples=[example])
    return field


def _timeout_s() -> float:
    """How long a call may take."""
    field: float = Field(
        120, gt=0, le=3600, description="How long a call may take, its repair included.", examples=["300"]
    )
    return field


def _concurrency() -> int:
    """How many calls run at once."""
    field: int = Field(
        0,
        ge=0,
        le=1000,
        description="Calls at a time of one worker process. 0: 16, or 2 where the API is on this machine.",
        examples=["4"],
    )
    return field


def _cap(what: str, example: str = "2000000") -> Any:
    """A bound on spending."""
    return Field(0, ge=0, description=f"{what}; then jobs are held. 0: no cap.", examples=[example])


class Settings(BaseModel):
    """The settings of one process. A field's description is what `docs/configuration.md` says of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    home: Path = Field(
        Path(DEFAULT_HOME),
        validate_default=True,
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
            "with TLS by `?sslmode=verify-full&sslrootcert=FILE`; several hosts as `HOST:PORT,HOST:PORT`, with "
            "`?target_session_attrs=read-write`."
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
        QueueChoice.SQL,
        description="`sql` keeps the queue in the database, `bullmq` in Redis or Valkey as BullMQ does.",
        examples=["bullmq"],
    )
    redis_url: str = Field(
        "",
        description=(
            "`bullmq` only: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, or `rediss://` for TLS "
            "(`?ssl_ca_certs=FILE` for an authority of your own)."
        ),
        examples=["rediss://onlooker:secret@redis.example:6379/0"],
    )
    redis_host: str = Field(
        "", description="`bullmq` only, instead of the URL: a Redis without a password.", examples=["127.0.0.1"]
    )
    redis_port: int = Field(6379, ge=1, le=65535, description="With `redis_host`.", examples=["6380"])
    redis_mode: RedisMode = Field(
        RedisMode.EXTERNAL,
        description="Who runs this Redis: external, managed or docker. It is told in health and changes nothing.",
        examples=["managed"],
    )
    queue_prefix: str = Field(
        "onlooker",
        description=(
            "`bullmq` only: what the keys begin with. Letters, digits, `_`, `.`, `-` and one `{…}` around all of it, "
            "for a Redis Cluster; anything else becomes `-`."
        ),
        examples=["{onlooker}"],
    )
    provider: str = Field(
        "rules",
        description="What turns events into observations: `rules` (needs no model), `anthropic`, `openai` (any server "
        "that speaks OpenAI's API), `gemini`. A list with commas is tried in order: the next one when one cannot.",
        examples=["anthropic,openai"],
    )
    anthropic_model: str = _model("claude-haiku-4-5")
    anthropic_api_key: SecretStr = _api_key("sk-ant-…")
    anthropic_base_url: str = _base_url("https://api.anthropic.com", "https://gateway.example/anthropic")
    anthropic_timeout_s: float = _timeout_s()
    anthropic_concurrency: int = _concurrency()
    openai_model: str = _model("gpt-5-mini")
    openai_api_key: SecretStr = _api_key("sk-…")
    openai_base_url: str = _base_url("https://api.openai.com/v1", "http://127.0.0.1:11434/v1")
    openai_timeout_s: float = _timeout_s()
    openai_concurrency: int = _concurrency()
    gemini_model: str = _model("gemini-2.5-flash")
    gemini_api_key: SecretStr = _api_key("AIza…")
    gemini_base_url: str = _base_url(
        "https://generativelanguage.googleapis.com/v1beta", "https://gateway.example/v1beta"
    )
    gemini_timeout_s: float = _timeout_s()
    gemini_concurrency: int = _concurrency()
    prompt_tokens: int = Field(
        24_000,
        ge=1_000,
        le=1_000_000,
        description="Tokens of events that one call may take. Set it below the context of a small local model.",
        examples=["6000"],
    )
    mode: str = Field(
        "code",
        description="What is watched, and which observations are made of it: `onlooker modes` lists them.",
        examples=["research"],
    )
    language: str = Field(
        "",
        max_length=60,
        description="The language of observations, by name or tag. Empty: that of the person's prompts.",
        examples=["German"],
    )
    ca_file: str = Field(
        "",
        description="Certificates (PEM) to trust in calls of model APIs in place of the well-known ones. "
        "`SSL_CERT_FILE`, `HTTPS_PROXY` and `NO_PROXY` are honoured too.",
        examples=["/etc/ssl/company.pem"],
    )
    generation_policy: GenerationPolicy = Field(
        GenerationPolicy.BATCH,
        description="When events go to the model: `batch` (a session's waiting events in one call), `per-event`, or "
        "`end-of-turn`. A project may have its own: `onlooker projects policy`.",
        examples=["end-of-turn"],
    )
    generation_debounce_s: float = Field(
        DEBOUNCE_MS / 1000,
        ge=0,
        le=600,
        description="How long `batch` waits after an event for more of them, unless the turn ended.",
        examples=["10"],
    )
    project_daily_tokens: int = _cap("Tokens, in and out, that a project may use in a day")
    project_monthly_tokens: int = _cap("Tokens that a project may use in a month")
    project_daily_usd: float = _cap("US dollars that a project may cost in a day", "0.50")
    project_monthly_usd: float = _cap("US dollars that a project may cost in a month", "10")
    team_daily_tokens: int = _cap("Tokens that all projects of a team may use in a day")
    team_monthly_tokens: int = _cap("Tokens that all projects of a team may use in a month")
    team_daily_usd: float = _cap("US dollars that all projects of a team may cost in a day", "2")
    team_monthly_usd: float = _cap("US dollars that all projects of a team may cost in a month", "40")
    prices: dict[str, Price] = Field(
        {},
        description="US dollars for a million tokens, by how a model's name begins, beside those that are known.",
        examples=['{"my-model": {"input": 1, "output": 4, "cached": 0.1}}'],
    )
    embedder: EmbedderChoice = Field(
        EmbedderChoice.NONE,
        description="Search by meaning too: `local`, a small model in the process, or `openai`, any endpoint that "
        "speaks its `/embeddings`. `none`: by words alone.",
        examples=["local"],
    )
    embedder_url: str = Field(
        "https://api.openai.com/v1",
        description="`openai` only: where `/embeddings` is.",
        examples=["http://127.0.0.1:11434/v1"],
    )
    embedder_model: str = Field(
        "text-embedding-3-small", description="`openai` only: the model.", examples=["nomic-embed-text"]
    )
    embedder_api_key: SecretStr = Field(
        SecretStr(""), description="`openai` only: the key, where one is asked for.", examples=["sk-…"]
    )
    embedder_timeout_s: float = Field(
        30, gt=0, le=600, description="`openai` only: how long a call for notes may take.", examples=["60"]
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
        10,
        ge=0,
        le=600,
        description="How long to wait for the database, and for Redis, at start before giving up.",
        examples=["30"],
    )
    session_idle_minutes: int = Field(
        60, ge=1, description="After so long without an event a session ends, and is summed up.", examples=["240"]
    )
    transcript_folders: str = Field(
        "~/.claude/projects,~/.codex/sessions",
        description="Where agents write their sessions down: what hooks missed is read from there. Empty: nowhere.",
        examples=["/home/dev/.claude/projects"],
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

    @field_validator("anthropic_base_url", "openai_base_url", "gemini_base_url")
    @classmethod
    def _web_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url

    @field_validator("provider")
    @classmethod
    def _names(cls, names: str) -> str:
        """The same without blanks."""
        return ",".join(name for each in names.split(",") if (name := each.strip()))

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        if url and not url.startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return url

    @field_validator("queue_prefix")
    @classmethod
    def _sanitised(cls, prefix: str) -> str:
        tagged = prefix.startswith("{") and prefix.endswith("}")
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", prefix[1:-1] if tagged else prefix)
        if not plain:
            raise ValueError("must hold a letter or a digit")
        return f"{{{plain}}}" if tagged else plain

    @property
    def redis(self) -> str:
        """The URL of the queue's Redis. Raises `Misconfigured` where the settings do not name one."""
        if bool(self.redis_url) == bool(self.redis_host):
            raise Misconfigured(
                ["ONLOOKER_QUEUE_ENGINE=bullmq needs either ONLOOKER_REDIS_URL or ONLOOKER_REDIS_HOST, one of the two"]
            )
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return self.redis_url or f"redis://{host}:{self.redis_port}"

    @field_validator("prices", mode="before")
    @classmethod
    def _table(cls, prices: object) -> object:
        """A variable holds the table as JSON."""
        if not isinstance(prices, str):
            return prices
        try:
            return json.loads(prices)
        except ValueError as error:
            raise ValueError("must be a JSON object of prices by model") from error

    @property
    def project_caps(self) -> DefaultCaps:
        """What each project may spend."""
        return DefaultCaps(
            self.project_daily_tokens, self.project_monthly_tokens, self.project_daily_usd, self.project_monthly_usd
        )

    @property
    def team_caps(self) -> DefaultCaps:
        """What each team may spend."""
        return DefaultCaps(self.team_daily_tokens, self.team_monthly_tokens, self.team_daily_usd, self.team_monthly_usd)

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
