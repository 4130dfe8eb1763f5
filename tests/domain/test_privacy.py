"""Private parts and injected context, in all the ways people and programs write them."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onlooker.domain.privacy import strip_private, strip_private_deep


@pytest.mark.parametrize(
    "text,stripped",
    [
        ("help with <private>pw123</private>", "help with "),
        ("a <PRIVATE>x</Private> b", "a  b"),
        ('a<private reason="mine" x=1>x</private >b', "ab"),
        ("a<private\n>x</private\t>b", "ab"),
        ("a<private>x<private>y</private>z</private>b", "ab"),
        ("a<private>x</private>b<private>y</private>c", "abc"),
        ("a<private>never closed", "a"),
        ("a<private>x<private>y</private>closed once", "a"),
        ("a</private>b", "ab"),
        ("a<private x</private>b", "ab"),
        ("a<private", "a"),
        ("a<private/>b", "ab"),
        ("a\n<private>\nx\n</private>\nb", "a\n\nb"),
        ("a &lt;private&gt;x&lt;/private&gt; b", "a  b"),
        ('{"a":"\\u003cprivate\\u003ex\\u003c/private\\u003e"}', '{"a":""}'),
        ("a<private>x<\\/private>b", "ab"),
        ("日本<private>語</private>語", "日本語"),
        ("İ<private>x</private>İ", "İİ"),
        ("a<onlooker-context>notes</onlooker-context>b", "ab"),
        ("a<claude-mem-context>\nnotes</claude-mem-context>b", "ab"),
        ("a<onlooker-context>notes, cut off", "a"),
        ("a<system-reminder>r</system-reminder>b", "ab"),
        ("a<system-reminder>r<system-reminder>s</system-reminder>b", "ab"),
        ("how do <system-reminder> tags work?", "how do  tags work?"),
        ("<private>a<system-reminder>b</private>c", "c"),
        ("<onlooker-context>a<private>b</onlooker-context>c", "c"),
    ],
)
def test_blocks_are_removed_and_the_rest_stays(text: str, stripped: str) -> None:
    assert strip_private(text) == stripped


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a private matter",
        "private static final int X = 1;",
        "<private-key>x</private-key>",
        "<privateKey>x</privateKey>",
        "<privateer>",
        "a < private > b",
        "<p>private</p>",
        "onlooker-context",
        "List<Private_>",
    ],
)
def test_words_that_are_no_tags_stay(text: str) -> None:
    assert strip_private(text) == text


def test_a_block_in_one_text_touches_no_other() -> None:
    value = {"prompt": "a<private>x", "other": "kept", "more": [{"text": "<private>y"}, {"text": "kept"}]}

    assert strip_private_deep(value) == {"prompt": "a", "other": "kept", "more": [{"text": ""}, {"text": "kept"}]}


def test_keys_are_texts_too_and_no_member_is_lost_when_two_become_equal() -> None:
    value = {"a<private>1</private>": 1, "a<private>2</private>": 2, "b": 3}

    assert strip_private_deep(value) == {"a": 1, "a#2": 2, "b": 3}


def test_the_lines_of_a_list_are_one_text() -> None:
    hunk = {"lines": [" before", "+<private>", "+pw123", "+</private>", " after"], "oldStart": 1}

    assert strip_private_deep(hunk) == {"lines": [" before", "+", " after"], "oldStart": 1}


def test_a_value_with_nothing_private_is_handed_back_as_it_is() -> None:
    value = {"a": ["x", {"b": "private", "n": 1}], "lines": ["x", "y"]}

    assert strip_private_deep(value) is value


@pytest.mark.parametrize("value", [None, True, 1, 1.5, [], {}, [1, "x"]])
def test_other_values_pass_through(value: Any) -> None:
    assert strip_private_deep(value) == value


@given(
    parts=st.lists(
        st.sampled_from(
            ["<private>", "</private>", "<PRIVATE a=b>", "<onlooker-context>", "</onlooker-context>", "&lt;"]
        )
        | st.text(max_size=6),
        max_size=12,
    )
)
def test_nothing_that_was_inside_a_block_is_left(parts: list[str]) -> None:
    before = "".join(parts)

    stripped = strip_private(before + "<private>needle" + "".join(parts))

    assert "needle" not in stripped
    assert strip_private(stripped) == stripped or "<" in stripped


@pytest.mark.parametrize(
    "unit",
    [
        "<private>",
        "<private ",
        "<private",
        "</private>",
        "&lt;private ",
        "<private><system-reminder>",
        "<system-reminder>",
        "<",
        "<private>x</private>",
    ],
)
def test_a_megabyte_of_tags_is_done_at_once(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))

    started = time.perf_counter()
    strip_private(text)

    assert time.perf_counter() - started < 2
