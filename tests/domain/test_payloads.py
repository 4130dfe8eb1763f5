"""What a payload becomes on its way into the database."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.secret_samples import ASSIGNED, HARMLESS, PLACES, SECRET, TOKENS, key_block
from onlooker.domain.errors import InvalidInput
from onlooker.domain.payloads import (
    BIG_NUMBER,
    CUT,
    MAX_BYTES,
    REPLACED_CHARACTERS,
    canonical_json,
    clean,
    fit,
    prepare,
    read_json,
    scrub,
)
from onlooker.domain.privacy import strip_private
from onlooker.domain.secrets import redact

TOKEN = "gh" + "p_" + "q7Zk2WvR4mN8tByPl3dXh9Jc5Gf1Us6Ae0Io"
PAYLOAD = {
    "session_id": "s-1",
    "tool_name": "Bash",
    "tool_input": {"command": "npm test", "count": [1, 2.5, True, None]},
    "tool_response": {"stdout": "ok 日本語\nline two", "exit_code": 0},
}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_clean_payload_is_handed_back_as_it_is() -> None:
    cleaned = clean(PAYLOAD)

    assert cleaned.value is PAYLOAD
    assert cleaned.flags == frozenset()
    assert prepare(PAYLOAD).value is PAYLOAD


def test_canonical_json_does_not_depend_on_the_order_of_names() -> None:
    assert canonical_json({"b": 1, "a": "ü"}) == canonical_json({"a": "ü", "b": 1}) == '{"a":"ü","b":1}'.encode()


@pytest.mark.parametrize(
    "text,cleaned",
    [("a\x00b", "a\ufffdb"), ("a\ud800b", "a\ufffdb"), ("\udc00", "\ufffd"), ("\ud83d\ude00", "\ufffd\ufffd")],
)
def test_characters_that_no_database_holds_are_replaced_and_flagged(text: str, cleaned: str) -> None:
    result = clean({"a": [text], text: 1})

    assert result.value == {"a": [cleaned], cleaned: 1}
    assert result.flags == {REPLACED_CHARACTERS}
    result.canonical.decode()


def test_a_backslash_before_u0000_is_only_text() -> None:
    value = {"code": "\\u0000"}

    assert clean(value).value == value
    assert clean(value).flags == frozenset()


@pytest.mark.parametrize("number", [10**299, -(10**299), 2**64, -(2**63) - 1])
def test_a_number_of_more_than_64_bits_is_kept_as_its_digits(number: int) -> None:
    result = clean({"n": number})

    assert result.value == {"n": str(number)}
    assert result.flags == {BIG_NUMBER}


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 1.7976931348623157e308, 5e-324, True, "9" * 300])
def test_numbers_that_fit_and_digits_in_texts_stay(number: Any) -> None:
    assert clean({"n": number}).value == {"n": number}
    assert clean({"n": number}).flags == frozenset()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    with pytest.raises(InvalidInput):
        clean({"a": [number]})


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(InvalidInput):
        clean({"n": 10**5000})


def test_200_levels_are_taken_and_one_more_is_refused() -> None:
    assert clean(nested(200)).value == nested(200)
    for levels in (201, 900, 5_000):
        with pytest.raises(InvalidInput):
            clean(nested(levels))
        with pytest.raises(InvalidInput):
            prepare({"x": nested(levels)})


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert clean([[] for _ in range(1_000)]).flags == frozenset()
    assert clean({"code": "{[" * 1_000}).flags == frozenset()


@pytest.mark.parametrize("value", [{"a": object()}, {"a": b"x"}, {1: "a", "b": 2}, {"a": {1, 2}}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        clean(value)


def test_private_parts_and_secrets_go_in_every_corner() -> None:
    stored = prepare(
        {
            "prompt": "help with <private>pw123</private>",
            "tool_input": {"command": f"git push https://x:{TOKEN}@example.com/a.git", "env": {"API_KEY": "abcd1234"}},
            "tool_response": {"lines": [" a", "+<private>", "+pw123", "+</private>"]},
            "last_assistant_message": "I used <private>pw123",
            TOKEN: "key",
        }
    ).value

    text = json.dumps(stored)
    assert "pw123" not in text
    assert TOKEN not in text
    assert stored["tool_input"]["env"] == {"API_KEY": "[redacted:api-key]"}
    assert stored["prompt"] == "help with "


TEXTS = [
    *(place.format(secret) for place in PLACES for secret in TOKENS.values()),
    *(place.format(SECRET) for place in ASSIGNED),
    *(key_block(kind, joint) for kind in ("", "RSA ") for joint in ("\n", "\\n", "\r\n")),
    *(f"x{before}<private>{SECRET}" for before in ("", "\n", "\t", '"', "\\", "\x1b[1m", "é")),
    *HARMLESS,
]


@pytest.mark.parametrize("before", ["", "\n", "\t", "\r\n", '"', "\\", "\x1b[32m", " ", "é", "\\n", "\\\\n"])
def test_the_quick_look_at_the_whole_payload_misses_nothing_that_a_look_at_each_text_finds(before: str) -> None:
    for text in TEXTS:
        assert scrub({"a": {"b": [before + text, 1]}}) == {"a": {"b": [redact(strip_private(before + text)), 1]}}


def test_the_key_is_taken_before_anything_is_removed() -> None:
    one = prepare({"prompt": "a <private>1</private>"})
    two = prepare({"prompt": "a <private>2</private>"})

    assert one.value == two.value
    assert one.canonical != two.canonical
    assert b"<private>1</private>" in one.canonical


def test_scrubbing_again_changes_nothing() -> None:
    once = scrub({"a": f"x <private>y</private> {TOKEN} password=hunter2!", "password": "hunter2"})

    assert scrub(once) == once


def test_a_long_text_is_cut_in_its_middle_and_says_how_much() -> None:
    text = "".join(f"line {number}\n" for number in range(60_000))
    payload = {"tool_name": "Read", "tool_response": {"file": {"content": text}}, "small": "s" * 900}

    prepared = prepare(payload)

    kept = prepared.value["tool_response"]["file"]["content"]
    assert prepared.flags == {CUT}
    assert MAX_BYTES * 0.7 < len(canonical_json(prepared.value)) <= MAX_BYTES
    assert kept.startswith("line 0\n")
    assert kept.endswith("line 59999\n")
    assert prepared.value["small"] == payload["small"]
    cut = int(kept.split("[… ")[1].split(" ")[0])
    marker = f"[… {cut} characters cut …]"
    assert len(kept) - len(marker) == len(text) - cut


def test_a_payload_just_below_the_limit_is_not_cut() -> None:
    payload = {"a": "x" * (MAX_BYTES - len('{"a":""}'))}

    assert prepare(payload).value is payload
    assert prepare({"a": payload["a"] + "x"}).flags == {CUT}


@pytest.mark.parametrize(
    "payload",
    [
        {"a": "é" * 500_000},
        {"a": "\x01" * 300_000},
        {f"k{number}": "x" * 50 for number in range(20_000)},
        {"a": list(range(200_000))},
        {"a": {"b": [{"c": number} for number in range(60_000)]}},
        {f"k{number}": number for number in range(60_000)},
        {"k" * 500_000: 1},
        {"lines": ["x" * 60] * 20_000},
        list(range(200_000)),
        "x" * 700_000,
    ],
    ids=["wide", "escaped", "members", "numbers", "objects", "names", "one name", "lines", "list", "text"],
)
def test_whatever_is_too_long_is_made_to_fit(payload: Any) -> None:
    prepared = prepare(payload)

    assert len(canonical_json(prepared.value)) <= MAX_BYTES
    assert prepared.flags == {CUT}
    assert prepare(payload).value == prepared.value


def test_a_secret_at_the_place_of_the_cut_is_gone() -> None:
    payload = {"a": "x" * 200_000 + f" {TOKEN} " * 2_000 + "y" * 200_000}

    assert TOKEN[10:20] not in json.dumps(prepare(payload).value)


def test_a_private_block_that_the_cut_would_have_opened_is_gone() -> None:
    payload = {"a": "<private>" + "hunter2 " * 100_000 + "</private>" + "y" * 300_000}

    assert "hunter2" not in json.dumps(prepare(payload).value)


def test_fitting_what_fits_changes_nothing() -> None:
    assert fit(PAYLOAD) == (PAYLOAD, False)


def test_json_is_read_behind_a_byte_order_mark_and_with_half_pairs() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert read_json(b'"\\ud800"') == "\ud800"
    assert clean(read_json(b'{"a": "\\ud800\\u0000"}')).value == {"a": "\ufffd\ufffd"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a": 1} x', b"[" * 100_000, b"1" * 6_000])
def test_what_cannot_be_read_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_json(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=[]), max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=JSON)
def test_whatever_is_json_becomes_json_that_can_be_stored(value: Any) -> None:
    prepared = prepare(value)

    stored = json.dumps(prepared.value, ensure_ascii=False).encode()
    assert b"\x00" not in stored
    assert b"\\u0000" not in stored.replace(b"\\\\", b"")
    assert prepare(prepared.value).flags == frozenset()
