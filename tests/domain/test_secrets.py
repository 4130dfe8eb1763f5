"""What is a secret and what only looks like one."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.secret_samples import ASSIGNED, HARMLESS, PLACES, SECRET, TOKENS, key_block
from onlooker.domain.secrets import redact, redact_deep


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", list(TOKENS))
def test_tokens_of_vendors_are_replaced_wherever_they_stand(name: str, place: str) -> None:
    secret = TOKENS[name]

    redacted = redact(place.format(secret))

    assert secret not in redacted
    assert secret[8:] not in redacted
    assert "[redacted:" in redacted


def test_a_marker_says_what_kind_of_secret_it_stands_for() -> None:
    assert redact(f"key {TOKENS['aws-access-key']} end") == "key [redacted:aws-access-key] end"
    assert redact(f"git clone with {TOKENS['github-token']}") == "git clone with [redacted:github-token]"
    assert redact(TOKENS["jwt"]) == "[redacted:jwt]"
    assert redact(key_block("RSA ")) == "[redacted:private-key]"
    assert redact("DB_PASSWORD=hunter2") == "DB_PASSWORD=[redacted:password]"


@pytest.mark.parametrize("place", ASSIGNED)
def test_what_is_assigned_to_a_secrets_name_is_replaced(place: str) -> None:
    text = place.format(SECRET)

    redacted = redact(text)

    assert "hunter2" not in redacted
    assert "[redacted:" in redacted


def test_only_the_secret_is_replaced_and_what_stands_around_it_stays() -> None:
    assert redact("postgres://app:s3cr3t@db:5432/app") == "postgres://app:[redacted:url-password]@db:5432/app"
    assert redact("https://a:p@ss1@h/x") == "https://a:[redacted:url-password]@h/x"
    assert redact("Set-Cookie: sid=abcdef123; Path=/") == "Set-Cookie: sid=[redacted:cookie]; Path=/"
    assert redact('{"password": "abc123", "user": "me"}') == '{"password": "[redacted:password]", "user": "me"}'
    assert redact("https://x/?token=abc123xyz&page=2") == "https://x/?token=[redacted:token]&page=2"
    assert redact("Authorization: Bearer abc123abc123abc123\n") == "Authorization: Bearer [redacted:authorization]\n"
    assert redact('password = "it\'s \\"1\\" x9" # why') == 'password = "[redacted:password]" # why'


def test_capitals_and_options_take_a_password_that_is_a_plain_word() -> None:
    assert redact("POSTGRES_PASSWORD=swordfish") == "POSTGRES_PASSWORD=[redacted:password]"
    assert redact("--password swordfish") == "--password [redacted:password]"
    assert redact('PASSWORD="correct horse battery"') == 'PASSWORD="[redacted:password]"'
    assert redact('password = "swordfish"') == 'password = "[redacted:password]"'


def test_the_secret_beside_an_aws_access_key_goes_with_it() -> None:
    secret = "wJ4lrXUt7FEMI/K7MDENG/bPxRfiCYzK9QmLpo3+"
    assert len(secret) == 40

    redacted = redact(f"{TOKENS['aws-access-key']},{secret}\nnext")

    assert redacted == "[redacted:aws-access-key],[redacted:aws-secret-key]\nnext"


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
@pytest.mark.parametrize("joint", ["\n", "\\n", "\\\\n", "\r\n", "\n   12→", "\n+"])
def test_private_key_blocks_are_replaced_whole(kind: str, joint: str) -> None:
    assert redact(f"a {key_block(kind, joint)} b") == "a [redacted:private-key] b"


def test_a_key_block_that_is_cut_off_is_replaced_as_far_as_it_goes() -> None:
    block = key_block("RSA ")

    without_end = redact("x\n" + block[:150] + "\nthen other text")
    without_head = redact("some text\n" + block[60:] + "\nthen other text")
    escaped = redact(key_block("", "\\n")[:150] + '", "next": "x"')

    assert without_end == "x\n[redacted:private-key]\nthen other text"
    assert without_head == "some text\n[redacted:private-key]\nthen other text"
    assert escaped == '[redacted:private-key]", "next": "x"'


def test_two_key_blocks_are_two_and_the_text_between_stays() -> None:
    assert (
        redact(f"{key_block('')}\nkeep\n{key_block('EC ')}") == "[redacted:private-key]\nkeep\n[redacted:private-key]"
    )


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_members_whose_name_says_secret_are_replaced() -> None:
    value = {
        "password": "swordfish",
        "apiKey": "abcd-efgh",
        "client_secret": "s3",
        "nested": [{"access_token": "abcdef", "token_type": "bearer"}],
        "DB_PASSWORD": "x1y",
        "input_tokens": 5,
        "max_tokens": 4096,
        "token": 7,
        "secret": None,
        "password_field": "login",
        "tool_use_id": "toolu_01UBumkyGa4vv7EbMVke2AiH",
    }

    redacted = redact_deep(value)

    assert redacted == {
        **value,
        "password": "[redacted:password]",
        "apiKey": "[redacted:api-key]",
        "nested": [{"access_token": "[redacted:token]", "token_type": "bearer"}],
        "DB_PASSWORD": "[redacted:password]",
    }


@pytest.mark.parametrize("value", ["<your-key>", "$TOKEN", "{{ token }}", "", "string", "your_token_here", "***"])
def test_members_that_hold_a_placeholder_stay(value: str) -> None:
    assert redact_deep({"token": value, "password": value}) == {"token": value, "password": value}


def test_secrets_in_keys_and_over_the_lines_of_a_list_are_replaced() -> None:
    lines = ["+" + line for line in key_block("RSA ").split("\n")]
    token = TOKENS["github-token"]

    redacted = redact_deep({token: 1, "lines": [" a", *lines, " b"], "argv": ["mysql", "--password", SECRET, "db"]})

    assert redacted["[redacted:github-token]"] == 1
    assert redacted["lines"] == [" a", "+[redacted:private-key]", " b"]
    assert redacted["argv"] == ["mysql", "--password", "[redacted:password]", "db"]


def test_a_value_without_secrets_is_handed_back_as_it_is() -> None:
    value = {"tool_name": "Bash", "tool_input": {"command": "ls"}, "list": ["a", "b"], "n": [1, {"x": None}]}

    assert redact_deep(value) is value


@given(
    parts=st.lists(
        st.sampled_from([*TOKENS.values(), *[place.format(SECRET) for place in ASSIGNED], *HARMLESS, " ", "\n", '"'])
        | st.text(max_size=12),
        max_size=6,
    )
)
def test_redacting_again_changes_nothing(parts: list[str]) -> None:
    once = redact(" ".join(parts))

    assert redact(once) == once


HOSTILE = [
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nAAAA",
    "-----END PRIVATE KEY-----",
    "a" * 64 + "=" * 3,
    "password=",
    "password: ",
    'password="',
    "token" * 3,
    "://a:",
    "://" + "a" * 90,
    "--token ",
    "--" + "a" * 29,
    "eyJ" + "a" * 20 + ".",
    "sk-",
    "sk-proj-aaaa-",
    "cookie: a=b;",
    "curl -u ",
    "curl ",
    "authorization: ",
    "authorization:" + " " * 3,
    "bearer ",
    "AKIA" + "A" * 16,
    "Q~",
    "key" * 5,
    '\\"password\\": \\"',
    "glsa_",
    "xoxb-",
    "İ",
    "\\",
    "_pass '",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    def cpu_s(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        best = 1e9
        for _ in range(3):
            started = time.process_time()
            redact(text)
            best = min(best, time.process_time() - started)
        return best

    # Eight times the text: in proportion it is 8 times the time, and 64 times if the time grew with the square.
    assert cpu_s(160_000) < 24 * max(cpu_s(20_000), 0.002)


def test_types_other_than_text_pass_through() -> None:
    value: list[Any] = [1, 2.5, True, None, {}]

    assert redact_deep(value) is value
