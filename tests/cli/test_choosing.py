"""`onlooker modes`, and how a wrong mode or provider ends a start."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cli_runner import Cli, one_line

GOOD = """
title = "Garden"
about = "a gardener's assistant"
neutral = "seen"
observe = "What grows."
pass_over = "What does not."
[types.seen]
kind = "discovery"
says = "something was seen"
"""


def own_mode(cli: Cli, name: str, text: str) -> Path:
    folder = cli.home / "modes"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_modes_are_listed_with_ones_own(cli: Cli) -> None:
    own_mode(cli, "garden", GOOD)
    own_mode(cli, "broken", "title = 1")
    told = {each["name"]: each for each in cli.run("modes", "list", "--json").json()["modes"]}
    assert list(told) == ["broken", "code", "garden", "research"]
    assert told["code"]["chosen"]
    assert told["garden"]["own"]
    assert told["garden"]["types"] == ["seen"]
    assert told["broken"]["problems"]
    assert "cannot be used" in cli.succeed("modes", "list")


def test_what_is_wrong_with_a_file_is_said_by_place(cli: Cli) -> None:
    path = own_mode(cli, "broken", GOOD.replace("neutral", "neutrum"))
    ended = cli.run("modes", "check")
    assert ended.code == 2
    assert f"{path}: neutral: must be the name of one of the types" in ended.out
    assert f"{path}: neutrum: no such member" in ended.out


def test_a_good_file_is_good(cli: Cli) -> None:
    path = own_mode(cli, "garden", GOOD)
    assert cli.succeed("modes", "check", str(path)).startswith(f"{path}: good, 1 types")


def test_a_shown_mode_is_a_good_beginning(cli: Cli) -> None:
    path = own_mode(cli, "mine", cli.succeed("modes", "show", "research"))
    assert "good" in cli.succeed("modes", "check", str(path))
    assert (
        "code, research" in one_line(cli.run("modes", "show", "poetry").err) or "mine" in cli.run("modes", "list").out
    )


@pytest.mark.parametrize(
    "env, said",
    [
        ({"ONLOOKER_PROVIDER": "openai"}, "ONLOOKER_OPENAI_API_KEY is not set"),
        ({"ONLOOKER_PROVIDER": "oracle"}, "use rules, anthropic, openai, gemini"),
        ({"ONLOOKER_PROVIDER": "rules,rules"}, "names one twice"),
        ({"ONLOOKER_PROVIDER": "gemini", "ONLOOKER_GEMINI_BASE_URL": "ftp://x"}, "ONLOOKER_GEMINI_BASE_URL"),
        (
            {"ONLOOKER_PROVIDER": "anthropic", "ONLOOKER_ANTHROPIC_API_KEY": "k", "ONLOOKER_MODE": "poetry"},
            "there is no mode poetry",
        ),
        (
            {"ONLOOKER_PROVIDER": "anthropic", "ONLOOKER_ANTHROPIC_API_KEY": "k", "ONLOOKER_CA_FILE": "/nowhere"},
            "ONLOOKER_CA_FILE",
        ),
    ],
)
def test_a_start_with_wrong_settings_says_which(cli: Cli, env: dict[str, str], said: str) -> None:
    ended = cli.run("serve", env=env)
    assert ended.code == 2
    assert said in one_line(ended.err)


def test_the_doctor_names_provider_and_model_and_never_the_key(cli: Cli) -> None:
    env = {"ONLOOKER_PROVIDER": "anthropic,rules", "ONLOOKER_ANTHROPIC_API_KEY": "sk-ant-very-secret"}
    ended = cli.run("doctor", env=env)
    assert "provider: anthropic (claude-haiku-4-5), then rules" in ended.out
    assert "very-secret" not in ended.out + ended.err + cli.run("doctor", "--json", env=env).out


def test_a_cap_in_dollars_on_a_model_of_no_known_price_is_told_everywhere(cli: Cli) -> None:
    env = {"ONLOOKER_PROVIDER": "openai", "ONLOOKER_OPENAI_API_KEY": "sk-x", "ONLOOKER_OPENAI_MODEL": "novel-1"}
    said = "price of novel-1 is known"
    assert said not in cli.run("usage", "cap", "--daily-tokens", "10", env=env).err
    assert said not in cli.run("doctor", env=env).out
    capped = cli.run("usage", "cap", "--daily-usd", "10", env=env)
    assert capped.code == 0
    assert said in capped.err
    asked = cli.run("doctor", env=env)
    assert asked.code == 1
    assert said in asked.out
    priced = env | {"ONLOOKER_PRICES": '{"novel": {"input": 1, "output": 2, "cached": 0.1}}'}
    assert said not in cli.run("usage", "cap", "--daily-usd", "10", env=priced).err
    assert said not in cli.run("doctor", env=priced).out


@pytest.mark.parametrize(
    "used, line, cost, unpriced",
    [
        ({"novel-1": 0}, "no price known", None, ["novel-1"]),
        ({"novel-1": 0, "gpt-4o": 1_250_000}, "at least $1.2500", 1.25, ["novel-1"]),
        ({"gpt-4o": 1_250_000}, "$1.2500", 1.25, []),
        ({}, "$0.0000", 0, []),
    ],
)
def test_a_total_says_where_it_leaves_out_what_a_model_cost(
    cli: Cli, used: dict[str, int], line: str, cost: float | None, unpriced: list[str]
) -> None:
    (project,) = cli.run("projects", "list", "--json").json()["projects"]
    with closing(sqlite3.connect(cli.home / "onlooker.db")) as database:
        for model, microusd in used.items():
            row = (project["teamId"], project["id"], "2026-03-01", "openai", model, 1, 900, 0, 100, microusd)
            database.execute(
                "INSERT INTO usage_daily (team_id, project_id, day, provider, model, calls, input_tokens,"
                " cached_tokens, output_tokens, cost_microusd) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        database.commit()
    *_, total = cli.succeed("usage").splitlines()
    assert total.split("\t")[-1] == line
    cli.succeed("usage", "cap", "--monthly-usd", "5")
    said = cli.run("usage").err
    assert "of $5.00" in said
    assert ("no price of novel-1 is known" in said) is bool(unpriced)
    told = cli.run("usage", "--json").json()
    assert (told["total"]["costUsd"], told["unpricedModels"]) == (cost, unpriced)


def test_the_doctor_finds_a_models_key_that_others_can_read(cli: Cli) -> None:
    cli.home.mkdir(parents=True, exist_ok=True)
    path = cli.home / "settings.toml"
    path.write_text('openai_api_key = "sk-x"', encoding="utf-8")
    path.chmod(0o644)
    assert f"chmod 600 {path}" in cli.run("doctor").out
    path.chmod(0o600)
    assert "chmod 600" not in cli.run("doctor").out
