"""The Lua scripts, each one operation that Redis does whole or not at all.

A script's text is the parts that it needs, in order. Its first writing command is one that a full store does not
refuse where it frees something, and one that is refused where it adds something: then nothing else has been done.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the name that Redis gives it."""

    text: bytes
    sha: bytes


class Scripts:
    """All of them."""

    def __init__(self) -> None:
        self.open = _script("open")
        self.epoch = _script("epoch")
        self.enqueue = _script("enqueue")
        self.claim = _script("ending", "claiming", "claim")
        self.finish = _script("ending", "finish")
        self.release = _script("ending", "release")
        self.extend = _script("extend")
        self.reset = _script("once", "reset")
        self.clear = _script("once", "clear")
        self.release_held = _script("once", "release_held")
        self.holders = _script("holders")
        self.pending = _script("pending")
        self.peek = _script("peek")
        self.depth = _script("depth")

    def all(self) -> list[Script]:
        """Each script once."""
        return list(vars(self).values())


def _script(*parts: str) -> Script:
    folder = files(__package__) / "scripts"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in ("common", "seldom", *parts))
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


@cache
def scripts() -> Scripts:
    """The scripts, read once."""
    return Scripts()
