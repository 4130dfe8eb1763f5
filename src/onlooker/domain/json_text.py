"""Changing every text inside a JSON value: strings, keys, and lists of lines, each of which is one text."""

from collections.abc import Callable, Mapping
from typing import Any

LINE_JOINT = "\n\x00"
"""Between the lines of a list while it is looked at as one text; no stored string holds a NUL."""


def plain(text: str) -> str:
    """The text with a `?` for each character outside ASCII: as long as it was, and quick to look through.

    What is looked for (tags, the names and the letters of secrets) is ASCII, and an offset found here is one there.
    """
    return text if text.isascii() else text.encode("ascii", "replace").decode("ascii")


def map_texts(value: Any, change: Callable[[str], str], change_member: Callable[[str, Any], Any] | None = None) -> Any:
    """The value with every text changed; the same object where nothing changed.

    A list of strings is one text of many lines: what begins in one and ends in another (a key block, a private
    part, in the lines of a patch) is seen whole, and what is removed may shorten the list. Other strings are
    looked at each by itself. `change_member` sees an object's member first, with the name it belongs to. Nesting
    must be bounded by the caller.
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return _map_list(value, change, change_member)
    if isinstance(value, Mapping):
        return _map_object(value, change, change_member)
    return value


def _map_list(value: list[Any], change: Callable[[str], str], change_member: Callable[[str, Any], Any] | None) -> Any:
    if len(value) > 1 and all(isinstance(item, str) for item in value):
        text = LINE_JOINT.join(value)
        changed = change(text)
        return value if changed == text else changed.split(LINE_JOINT)
    items = [map_texts(item, change, change_member) for item in value]
    return value if all(new is old for new, old in zip(items, value, strict=True)) else items


def _map_object(
    value: Mapping[str, Any], change: Callable[[str], str], change_member: Callable[[str, Any], Any] | None
) -> Any:
    made: dict[str, Any] = {}
    same = True
    for name, member in value.items():
        new = member if change_member is None else change_member(name, member)
        new = map_texts(new, change, change_member)
        new_name = change(name)
        same = same and new is member and new_name == name
        made[_free_name(new_name, made) if new_name != name else name] = new
    return value if same else made


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that two changed names share gets a number, so that no member is lost."""
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"
