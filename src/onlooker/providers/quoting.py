"""Text of events made fit to stand in a prompt as data.

Whatever an event holds, in the prompt it cannot close the delimiter that it stands in, open another one, look like a
turn of the conversation, or hide: no tag, no chat template's marker and no role name at the start of a line survives.
"""

import re
from functools import lru_cache

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_TERMINAL = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
"""Colours, cursor movements and titles that programs write for a terminal."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # directions, and blanks of no width
    "\U000e0000-\U000e007f]"  # a whole ASCII that nobody sees
)
_TAG = re.compile(r"<(?=\s*/)|<(?![\s\d=\-])")
"""What may begin a tag; `a < b`, `<=`, `<-` and `<3` stay."""

_INSTRUCTION = re.compile(r"\[(?=/?(?:INST|SYS|SYSTEM|ASSISTANT|USER)\])", re.IGNORECASE)
_ROLE = re.compile(
    r"^([ \t]*)(?=(?:human|user|assistant|system|developer|model|tool)[ \t]*:)", re.IGNORECASE | re.MULTILINE
)


def quoted(text: str) -> str:
    """The text as it may stand in a prompt. What is said to the model of it: `&lt;` stands for `<`."""
    text = _LINE_ENDS.sub("\n", text)
    text = _INVISIBLE.sub("", _TERMINAL.sub("", text))
    if "<" in text:
        text = _TAG.sub("&lt;", text)
    if "[" in text:
        text = _INSTRUCTION.sub("[ ", text)
    return _ROLE.sub(r"\1| ", text)


@lru_cache(maxsize=1024)
def quoted_line(text: str, longest: int) -> str:
    """The same for a text that has to be one short line: a title, a name. A session's last titles come up again."""
    line = " ".join(quoted(text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


_NOT_IN_NAMES = re.compile(r"[^\w.:/ -]", re.ASCII)


def quoted_name(text: str) -> str:
    """A name as an attribute's value: letters, digits and a few marks of ASCII."""
    return _NOT_IN_NAMES.sub("_", text[:80])
