"""Answers in tags, as many local models know them: blocks are read where they are closed, whatever stands around them.

The texts inside are no XML: they hold `&`, `<` and whole tags of other things. So nothing is parsed as XML; a member
ends at its own closing tag behind which another member, or the end of the block, follows.
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from onlooker.providers import json_answers
from onlooker.providers.drafts import MEMBERS, is_prose, member_of
from onlooker.providers.found import Found
from onlooker.providers.prompt import SUMMARY_MEMBERS

_FENCE = re.compile(r"^\s*```[\w-]*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)
_BLOCK = re.compile(
    r"<(?P<close>/)?(?P<name>observation|summary|skip[_-](?:summary|observations?)|skip(?=[^<>]*/>))(?=[\s/>])"
    r"(?P<rest>[^<>]*)>",
    re.IGNORECASE,
)
_EMPTY_LIST = re.compile(r"<observations\b[^<>]*(?:/>|>\s*</observations\s*>)", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_TAG = re.compile(r"<([A-Za-z][\w-]*)(?:\s[^<>]*)?(/?)>")
_ATTRIBUTE = re.compile(r"([A-Za-z][\w-]*)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'<>/]+))")
_ITEM = re.compile(
    r"<(fact|concept|file|index|id|event|source|item|li|path)\b[^<>]*>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE
)
_EMPTY_ITEM = re.compile(r"</?(?:fact|concept|file|index|id|event|source|item|li|path|ul|ol)\b[^<>]*>", re.IGNORECASE)
_ELEMENT = re.compile(r"<([A-Za-z][\w-]*)\b[^<>]*>.*?</\1\s*>", re.DOTALL)
_INPUT = frozenset({"event"})
"""A tag of the prompt, in which an observation's own members have none."""

_LISTS = frozenset({"facts", "concepts", "files_read", "files_modified", "events", "supersedes"})


def find(text: str) -> tuple[int, Found | None]:
    """Where the first block begins in a text, and what all of them say; None where there is not one closed block."""
    fenced = _FENCE.match(text)
    text = fenced[1] if fenced else text
    text = _CDATA.sub(lambda found: html.escape(found[1], quote=False), text)
    notes: list[Mapping[str, Any]] = []
    summaries: list[Mapping[str, Any]] = []
    first, echoes, skip_reason, seen = len(text), 0, None, False
    for start, name, attributes, body in _blocks(text):
        first, seen = min(first, start), True
        if name.startswith("skip"):
            skip_reason = skip_reason or attributes.get("reason") or body.strip() or None
            continue
        members = _members(body, attributes)
        if members is None:
            echoes += 1
        else:
            (summaries if name == "summary" else notes).append(members)
    opened = _open_at_end(text)
    if not seen:
        return _said_nothing(text, opened)
    return first, Found(tuple(notes), tuple(summaries), skip_reason, opened is not None, echoes)


def _said_nothing(text: str, opened: re.Match[str] | None) -> tuple[int, Found | None]:
    """A list with no block in it, or a skip without its end, which has nothing that could be missing."""
    if opened is not None and opened["name"].lower().startswith("skip"):
        return opened.start(), Found(skip_reason=_attributes(opened["rest"]).get("reason"))
    if opened is None and (empty := _EMPTY_LIST.search(text)):
        return empty.start(), Found()
    return len(text), None


def _blocks(text: str) -> Iterator[tuple[int, str, Mapping[str, str], str]]:
    """Closed blocks. One that another begins in, with a member of its own, was never closed: it is passed over."""
    opened: re.Match[str] | None = None
    for tag in _BLOCK.finditer(text):
        name = tag["name"].lower()
        if tag["close"]:
            if opened is not None and opened["name"].lower() == name and _closes(text, tag.end()):
                yield opened.start(), name, _attributes(opened["rest"]), text[opened.end() : tag.start()]
                opened = None
        elif tag["rest"].rstrip().endswith("/"):
            if opened is None:
                yield tag.start(), name, _attributes(tag["rest"]), ""
        elif opened is None or _begins_block(text, opened, tag):
            opened = tag


def _closes(text: str, end: int) -> bool:
    """Whether a closing tag ends its block: not where a member of the block is closed before anything else opens."""
    following = re.compile(r"<(/?)([A-Za-z][\w-]*)").search(text, end)
    return following is None or not following[1] or member_of(following[2]) not in MEMBERS


def _begins_block(text: str, opened: re.Match[str], tag: re.Match[str]) -> bool:
    """Whether an opening tag inside an open block begins another: it stands on a line's start, or a member follows.

    A summary that has no part of one is a member, by another name, of the observation that it stands in.
    """
    before = text[: tag.start()].rstrip(" \t")
    following = _TAG.match(text, tag.end() + len(text[tag.end() :]) - len(text[tag.end() :].lstrip()))
    member = "" if following is None else member_of(following[1])
    if tag["name"].lower() == "summary" and opened["name"].lower() == "observation":
        return member in SUMMARY_MEMBERS
    return not before or before.endswith(("\n", ">")) or member in MEMBERS


def _open_at_end(text: str) -> re.Match[str] | None:
    """The last block, where it was opened and never closed."""
    tags = list(_BLOCK.finditer(text))
    last = tags[-1] if tags else None
    return None if last is None or last["close"] or last["rest"].rstrip().endswith("/") else last


def _attributes(rest: str) -> Mapping[str, str]:
    return {name.lower(): a or b or c for name, a, b, c in _ATTRIBUTE.findall(rest)}


def _members(body: str, attributes: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The members of a block; its prose as a narrative where it has no child at all; None where it only echoes.

    A block with a type and nothing else says that there is nothing to say.
    """
    members: dict[str, Any] = {
        member_of(name): value for name, value in attributes.items() if member_of(name) in MEMBERS
    }
    has_child = has_type = has_other = False
    position = 0
    while tag := _TAG.search(body, position):
        name = member_of(tag[1])
        if name not in MEMBERS or tag[1].lower() in _INPUT:
            has_other, position = True, tag.end()
            continue
        end, position = (-1, tag.end()) if tag[2] else _member_end(body, tag)
        has_child = has_child or name not in {"type", "events"}
        has_type = has_type or name == "type"
        if end >= 0:
            inner = body[tag.end() : end]
            members.setdefault(name, _items(inner) if name in _LISTS else inner)
    if has_child or (has_type and not has_other):
        return members
    prose = _ELEMENT.sub("", body).strip()
    if has_other and (not is_prose(prose) or len(prose) < len(body) // 3):
        return None
    return _of_prose(body, members)


def _of_prose(body: str, members: Mapping[str, Any]) -> Mapping[str, Any] | None:
    in_json = json_answers.find(body)[1]
    if in_json is not None and len(in_json.notes) == 1:
        return {**members, **in_json.notes[0]}
    if in_json is not None and in_json.summaries:
        return in_json.summaries[0]
    prose = body.strip()
    return {**members, "narrative": prose} if is_prose(prose) else dict(members)


def _member_end(body: str, tag: re.Match[str]) -> tuple[int, int]:
    """Where a member's text ends and where reading goes on; -1 and behind its opening tag when it is not closed."""
    closing = re.compile(rf"</\s*{re.escape(tag[1])}\s*>", re.IGNORECASE)
    first: re.Match[str] | None = None
    for found in closing.finditer(body, tag.end()):
        first = first or found
        following = body[found.end() :].lstrip()
        opened = _TAG.match(following)
        if not following or (opened and member_of(opened[1]) in MEMBERS):
            return found.start(), found.end()
    return (first.start(), first.end()) if first else (-1, tag.end())


def _items(inner: str) -> list[str]:
    """The items of a list, in tags or as plain lines."""
    items = [item[2] for item in _ITEM.finditer(inner)]
    if items:
        return items
    return [line for line in _EMPTY_ITEM.sub("\n", inner).splitlines() if line.strip()]
