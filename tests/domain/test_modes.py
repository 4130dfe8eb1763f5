"""Modes as TOML texts: the packaged ones, one's own, and what is said about a wrong one."""

from pathlib import Path

import pytest

from onlooker.domain.errors import InvalidInput, NotFound
from onlooker.domain.models import ObservationKind
from onlooker.domain.modes import read_mode
from onlooker.providers.modes import Modes, mode_files

GOOD = """
title = "Garden"
about = "a gardener's assistant"
neutral = "seen"
observe = "What grows."
pass_over = "What does not."
[types.seen]
kind = "discovery"
says = "something was seen"
[types.decision]
says = "something was decided"
[concepts]
weather = "what the sky did"
"""


def issues_of(text: str, name: str = "garden") -> str:
    with pytest.raises(InvalidInput) as raised:
        read_mode(name, text)
    return "\n".join([str(raised.value), *raised.value.issues])


def test_a_good_one_has_its_types_and_concepts() -> None:
    mode = read_mode("garden", GOOD)
    assert [(each.name, each.kind) for each in mode.types] == [
        ("seen", ObservationKind.DISCOVERY),
        ("decision", ObservationKind.DECISION),
    ]
    assert mode.type_of("Seen").name == "seen"
    assert mode.type_of("anything").name == "seen"
    assert mode.concepts == {"weather": "what the sky did"}


@pytest.mark.parametrize("name", ["code", "research"])
def test_the_packaged_ones_can_be_used(name: str) -> None:
    mode = Modes().get(name)
    assert mode.neutral in mode.types
    assert mode.neutral.kind is ObservationKind.DISCOVERY


def test_all_that_is_wrong_is_said_at_once() -> None:
    text = """
    title = 7
    neutral = "gone"
    colour = "red"
    observe = "x"
    pass_over = "   "
    [types.Bad Name]
    """
    assert "is no TOML" in issues_of(text)
    text = text.replace("[types.Bad Name]", '[types.Bad]\nsays = "x"\nkind = "summary"\nhue = 1\n[concepts]\nX = 3')
    told = issues_of(text)
    for place in ("title:", "about:", "pass_over:", "neutral:", "colour:", "types.Bad:", "types.Bad.kind:"):
        assert f"\n{place}" in told
    for place in ("types.Bad.hue:", "concepts.X:"):
        assert f"\n{place}" in told


@pytest.mark.parametrize(
    "change, place",
    [
        (('title = "Garden"', 'title = "' + "x" * 400 + '"'), "title: 400 characters"),
        (("[types.seen]", "[nothing]"), "types"),
        (('says = "something was seen"', ""), "types.seen.says"),
        (('kind = "discovery"', 'kind = "manual"'), "types.seen.kind"),
        (("[concepts]", "concepts = 5\n[more]"), "concepts"),
        (("[types.seen]", "types = 5\n[x]"), ""),
    ],
)
def test_what_is_wrong_is_named_by_its_place(change: tuple[str, str], place: str) -> None:
    assert place in issues_of(GOOD.replace(*change))


def test_a_name_is_a_word() -> None:
    assert "a mode's name" in issues_of(GOOD, "../x")


def test_ones_own_is_found_in_the_home_and_replaces_a_packaged_one(tmp_path: Path) -> None:
    (tmp_path / "modes").mkdir()
    (tmp_path / "modes" / "garden.toml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "modes" / "code.toml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "modes" / "notes.txt").write_text("x", encoding="utf-8")
    assert [(file.name, file.is_own) for file in mode_files(tmp_path)] == [
        ("code", True), ("garden", True), ("research", False),
    ]  # fmt: skip
    modes = Modes(tmp_path)
    assert modes.get("code").title == "Garden"
    assert modes.version_of(modes.get("garden")).startswith("garden-")
    assert modes.version_of(modes.get("research")) == "research"


def test_one_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(NotFound, match="code, research"):
        Modes().get("poetry")
