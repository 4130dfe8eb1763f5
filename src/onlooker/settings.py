"""Every setting, its default and its check; the only reader of the environment (the hook client aside).

Values come from `ONLOOKER_…` variables, else from `settings.toml` in the home, else from the defaults here.
"""

import dataclasses
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from onlooker.domain.batching import DEBOUNCE_MS, GenerationPolicy
from onlooker.domain.errors import Misconfigured
from onlooker.domain.jobs import MAX_ATTEMPTS
from onlooker.domain.spending import DefaultCaps, Price

PREFIX = "ONLOOKER_"
SETTINGS_FILE = "settings.toml"
DEFAULT_HOME = "~/.onlooker"
DEFAULT_PORT = 37878


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is not shown where settings are."""

    _text: str = dataclasses.field(repr=False)

    def __bool__(self) -> bool:
        return bool(self._text)

    def get_secret_value(self) -> str:
        """The text itself."""
        return self._text


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


def Field(  # noqa: N802 - it reads as a declaration
    default: Any, *, description: str, examples: Sequence[str], **bounds: Any
) -> Any:
    """A setting: its default, what the documentation says of it, and its bounds as `msgspec.Meta` has them."""
    more = {"description": description, "examples": examples, "bounds": bounds}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=more)
    return dataclasses.field(default=default, metadata=more)


def _model(default: str) -> str:
    """The model of a provider."""
    field: str = Field(default, min_length=1, description="The model that is asked.", examples=[default])
    return field


def _api_key(example: str) -> Secret:
    """The key of a provider; never shown."""
    field: Secret = Field(
        Secret(""), description="The key. A server on this machine mostly needs none.", examples=[example]
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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one process. A field's description is what `docs/configuration.md` says of it."""

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
    anthropic_api_key: Secret = _api_key("sk-ant-…")
    anthropic_base_url: str = _base_url("https://api.anthropic.com", "https://gateway.example/anthropic")
    anthropic_timeout_s: float = _timeout_s()
    anthropic_concurrency: int = _concurrency()
    openai_model: str = _model("gpt-5-mini")
    openai_api_key: Secret = _api_key("sk-…")
    openai_base_url: str = _base_url("https://api.openai.com/v1", "http://127.0.0.1:11434/v1")
    openai_timeout_s: float = _timeout_s()
    openai_concurrency: int = _concurrency()
    gemini_model: str = _model("gemini-2.5-flash")
    gemini_api_key: Secret = _api_key("AIza…")
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
    embedder_api_key: Secret = Field(
        Secret(""), description="`openai` only: the key, where one is asked for.", examples=["sk-…"]
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

    @property
    def redis(self) -> str:
        """The URL of the queue's Redis. Raises `Misconfigured` where the settings do not name one."""
        if bool(self.redis_url) == bool(self.redis_host):
            raise Misconfigured(
                ["ONLOOKER_QUEUE_ENGINE=bullmq needs either ONLOOKER_REDIS_URL or ONLOOKER_REDIS_HOST, one of the two"]
            )
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return self.redis_url or f"redis://{host}:{self.redis_port}"

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
    def cap_in_dollars(self) -> bool:
        """Whether any project or team is capped in dollars by these settings."""
        return self.project_caps.are_in_dollars or self.team_caps.are_in_dollars

    @property
    def database(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'onlooker.db'}"


def origins() -> dict[str, str]:
    """Where each setting's value comes from: `environment`, `settings.toml` or `default`.

    Raises `Misconfigured` when the file cannot be read.
    """
    given, filed = _from_environment(), _from_file()
    return {name: "environment" if name in given else SETTINGS_FILE if name in filed else "default" for name in FIELDS}


def load_settings(**given: object) -> Settings:
    """The settings of this process; `given` wins over the environment and the file.

    Raises `Misconfigured` with every problem at once, each naming its variable.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in {"home": DEFAULT_HOME, **_from_file(), **_from_environment(), **given}.items():
        if name in FIELDS:
            try:
                values[name] = _CHECKS.get(name, _as_it_is)(_converted(name, value))
            except ValueError as error:
                problems.append(f"{PREFIX}{name.upper()}: {error}")
    if problems:
        raise Misconfigured(problems)
    return Settings(**values)


FIELDS: Mapping[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}
"""Every setting by name. The metadata of its field has its `description`, `examples` and `bounds`."""

_KINDS: Mapping[str, Any] = get_type_hints(Settings)
_CALLED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LIMITS = {
    "ge": "{} or more",
    "gt": "more than {}",
    "le": "{} at most",
    "min_length": "{} character or more",
    "max_length": "{} characters at most",
}
_WORDS = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}


def _converted(name: str, value: object) -> Any:
    """What was given for a setting, as what it is. Raises `ValueError`."""
    kind, bounds = _KINDS[name], FIELDS[name].metadata["bounds"]
    if isinstance(value, str) and kind is not str:
        value = value.strip()
    if kind in {Path, Secret}:
        return value if isinstance(value, kind) else kind(_checked(value, str, bounds))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _word(value, {member.value: member for member in kind})
    if isinstance(value, str) and kind is bool:
        return _word(value.lower(), _WORDS)
    if isinstance(value, str) and name == "prices":
        value = _read_json(value)
    return _checked(value, kind, bounds)


def _checked(value: object, kind: Any, bounds: Mapping[str, Any]) -> Any:
    try:
        checked = msgspec.convert(value, Annotated[kind, msgspec.Meta(**bounds)], strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(_demand(kind, bounds)) from error
    if isinstance(checked, float) and not math.isfinite(checked):
        raise ValueError(_demand(kind, bounds))
    return checked


def _demand(kind: Any, bounds: Mapping[str, Any]) -> str:
    """What a value must be, in words."""
    if kind not in _CALLED:
        return "must give of each model the numbers input, output and cached, in dollars for a million tokens"
    return ", ".join([f"must be {_CALLED[kind]}", *(_LIMITS[name].format(limit) for name, limit in bounds.items())])


def _word(word: object, meanings: Mapping[str, Any]) -> Any:
    if not isinstance(word, str) or word not in meanings:
        raise ValueError(f"must be one of {', '.join(meanings)}")
    return meanings[word]


def _read_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError("must be a JSON object of prices by model") from error


def _as_it_is(value: Any) -> Any:
    return value


def _absolute(home: Path) -> Path:
    return home.expanduser().absolute()


def _begins_with(*beginnings: str, may_be_empty: bool = True) -> Callable[[str], str]:
    def check(url: str) -> str:
        if not url.startswith(beginnings) and (url or not may_be_empty):
            raise ValueError(f"must begin with {' or '.join(beginnings)}")
        return url

    return check


def _names(names: str) -> str:
    """The same without blanks."""
    return ",".join(name for each in names.split(",") if (name := each.strip()))


def _sanitised(prefix: str) -> str:
    tagged = prefix.startswith("{") and prefix.endswith("}")
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", prefix[1:-1] if tagged else prefix)
    if not plain:
        raise ValueError("must hold a letter or a digit")
    return f"{{{plain}}}" if tagged else plain


_WEB_ADDRESS = _begins_with("http://", "https://", may_be_empty=False)
_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "home": _absolute,
    "database_url": _begins_with("sqlite:///", "postgresql://", "postgres://"),
    "database_direct_url": _begins_with("postgresql://", "postgres://"),
    "redis_url": _begins_with("redis://", "rediss://"),
    "anthropic_base_url": _WEB_ADDRESS,
    "openai_base_url": _WEB_ADDRESS,
    "gemini_base_url": _WEB_ADDRESS,
    "provider": _names,
    "queue_prefix": _sanitised,
}
"""What else a setting must be, or is made."""


def _from_environment() -> dict[str, str]:
    """Settings by name. A variable that is set to nothing is not set."""
    values = {name: os.environ.get(PREFIX + name.upper()) for name in FIELDS}
    return {name: value for name, value in values.items() if value}


def _from_file() -> dict[str, object]:
    """What the file in the home says; nothing where there is none. Raises `Misconfigured`."""
    path = Path(os.environ.get(PREFIX + "HOME") or DEFAULT_HOME).expanduser() / SETTINGS_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise Misconfigured([f"{path} cannot be read: {error}"]) from error
