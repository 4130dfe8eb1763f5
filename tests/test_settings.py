"""Settings: read from text, and every problem told at once, each with its variable and what it must be."""

from pathlib import Path

import pytest

from onlooker.domain.batching import GenerationPolicy
from onlooker.domain.errors import Misconfigured
from onlooker.domain.spending import Price
from onlooker.settings import FIELDS, PREFIX, QueueChoice, Settings, load_settings


def read(monkeypatch: pytest.MonkeyPatch, home: Path, **variables: str) -> Settings:
    """The settings of a process with these variables and no others."""
    for name in FIELDS:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    for name, value in {"HOME": str(home), **variables}.items():
        monkeypatch.setenv(PREFIX + name, value)
    return load_settings()


def test_each_kind_of_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read(
        monkeypatch, Path("~/home"), PORT=" 8080 ", JOB_LEASE_S="1.5", ALLOW_TEST_PROVIDER="Yes", QUEUE_ENGINE="bullmq",
        GENERATION_POLICY="end-of-turn", PROVIDER="a, b ,", QUEUE_PREFIX="a b", OPENAI_API_KEY="sk-1", LANGUAGE="",
        PRICES='{"m": {"input": 1, "output": 2.5, "cached": 0.1}}',
    )  # fmt: skip
    assert settings.home == tmp_path / "home"
    assert (settings.port, settings.job_lease_s, settings.allow_test_provider) == (8080, 1.5, True)
    assert (settings.queue_engine, settings.generation_policy) == (QueueChoice.BULLMQ, GenerationPolicy.END_OF_TURN)
    assert (settings.provider, settings.queue_prefix, settings.language) == ("a,b", "a-b", "")
    assert settings.prices == {"m": Price(1, 2.5, 0.1)}
    assert settings.openai_api_key.get_secret_value() == "sk-1"
    assert "sk-1" not in f"{settings} {settings!r} {settings.openai_api_key}"
    assert settings.anthropic_model == "claude-haiku-4-5"


@pytest.mark.parametrize(
    "name, value, must",
    [
        ("PORT", "70000", "be a whole number, 0 or more, 65535 at most"),
        ("PORT", "eighty", "be a whole number, 0 or more, 65535 at most"),
        ("JOB_LEASE_S", "0.5", "be a number, 1 or more, 3600 at most"),
        ("TEAM_DAILY_USD", "nan", "be a number, 0 or more"),
        ("TEAM_DAILY_USD", "inf", "be a number, 0 or more"),
        ("LANGUAGE", "a" * 61, "be text, 60 characters at most"),
        ("QUEUE_ENGINE", "x", "be one of sql, bullmq"),
        ("ALLOW_TEST_PROVIDER", "maybe", "be one of 1, true, yes, on, 0, false, no, off"),
        ("DATABASE_URL", "mysql://x", "begin with sqlite:/// or postgresql://"),
        ("DATABASE_DIRECT_URL", "sqlite:///x", "begin with postgresql://"),
        ("REDIS_URL", "http://x", "begin with redis:// or rediss://"),
        ("GEMINI_BASE_URL", "ftp://x", "begin with http:// or https://"),
        ("PRICES", "{", "be a JSON object of prices by model"),
        ("PRICES", '{"m": {"input": "much"}}', "give of each model the numbers input, output and cached"),
    ],
)
def test_a_wrong_value_is_told_with_its_variable_and_what_it_must_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, must: str
) -> None:
    with pytest.raises(Misconfigured) as refusal:
        read(monkeypatch, tmp_path, **{name: value})
    assert f"{PREFIX}{name}: must {must}" in str(refusal.value)


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('port = "x"\nhost = 5\nlog_level = "DEBUG"\nunknown = 1\n')
    with pytest.raises(Misconfigured) as refusal:
        read(monkeypatch, tmp_path, QUEUE_PREFIX="{}")
    told = str(refusal.value)
    assert all(PREFIX + name in told for name in ("PORT", "HOST", "LOG_LEVEL", "QUEUE_PREFIX"))
    assert "UNKNOWN" not in told
