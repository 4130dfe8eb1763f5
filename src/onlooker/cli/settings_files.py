"""Changing other programs' settings files: read strictly, change little, keep a copy, write whole or not at all."""

import json
import os
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from onlooker.domain.errors import Misconfigured

NEW_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Change:
    """What one file is and will be; `after` None means that it will be gone."""

    path: Path
    before: str | None
    after: str | None

    @property
    def is_one(self) -> bool:
        """Whether anything changes."""
        return self.before != self.after


def read_text(path: Path) -> str | None:
    """A file's text, its line ends as they are; None where there is none. Raises `Misconfigured`."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured([f"{path} cannot be read, and is left as it is: {error}"]) from error


def change_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> Change:
    """What an edit makes of a JSON file; one of nothing but empty objects is left out where there was no file.

    Raises `Misconfigured` for a file that is no JSON object: it is not touched.
    """
    before = read_text(path)
    try:
        value = json.loads(before) if before and before.strip() else {}
    except ValueError as error:
        raise Misconfigured(
            [f"{path} is not JSON ({error}); it is left as it is: repair it, then install again"]
        ) from None
    if not isinstance(value, dict):
        raise Misconfigured([f"{path} holds no JSON object; it is left as it is"])
    told = json.dumps(value)
    edit(value)
    if json.dumps(value) == told:
        return Change(path, before, before)
    after = json.dumps(value, indent=_indent(before), ensure_ascii=False) + "\n"
    after = after.replace("\n", _line_end(before))
    return Change(path, before, after if value else None)


def change_toml(path: Path, name: str, block: str) -> Change:
    """A TOML file with a block of ours at its end, or (an empty block) without it. The rest stays to the letter.

    Raises `Misconfigured` for a file that is no TOML, before or after.
    """
    before = read_text(path)
    line_end = _line_end(before)
    begin, end = f"# begin: {name}{line_end}", f"# end: {name}{line_end}"
    rest = before or ""
    if begin in rest and end in rest:
        head, _, tail = rest.partition(begin)
        rest = head.rstrip("\r\n") + line_end * bool(head.strip()) + tail.partition(end)[2]
    _check_toml(path, rest)
    after = rest
    if block:
        after = rest.rstrip("\r\n") + 2 * line_end if rest.strip() else ""
        after += begin + block.replace("\n", line_end) + end
        _check_toml(path, after)
    return Change(path, before, after if after.strip() else None)


def _check_toml(path: Path, text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = f"{path} is not TOML, or has a part of ours already ({error}); it is left as it is"
        raise Misconfigured([problem]) from None


def apply(changes: Sequence[Change]) -> list[tuple[Path, Path | None]]:
    """Write the changes; each changed file with the copy that was made of it. Each is read again and compared.

    Raises `Misconfigured` where one cannot be written; those before it are put back.
    """
    wanted = [each for each in changes if each.is_one]
    done: list[tuple[Path, Path | None]] = []
    try:
        for change in wanted:
            done.append((change.path, _copy(change)))
            _write(change.path, change.after)
            _check_written(change)
    except (OSError, Misconfigured) as error:
        for change in wanted[: len(done)]:
            with suppress(OSError):
                _write(change.path, change.before)
        if isinstance(error, Misconfigured):
            raise
        raise Misconfigured([f"{error.filename or 'a file'} cannot be written: {error.strerror}"]) from error
    return done


def _check_written(change: Change) -> None:
    if read_text(change.path) != change.after:
        raise Misconfigured([f"{change.path} does not read as it was written"])


def _copy(change: Change) -> Path | None:
    if change.before is None:
        return None
    name = f"{change.path.name}.before-onlooker-{time.strftime('%Y%m%d-%H%M%S')}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    copy = next(path for path in map(change.path.with_name, names) if not path.exists())
    _write(copy, change.before)
    return copy


def _write(path: Path, text: str | None) -> None:
    """Through a link to where the file is, with the mode that it has."""
    path = Path(os.path.realpath(path))
    if text is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else NEW_FILE_MODE
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(draft).chmod(mode)
        Path(draft).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise


def _line_end(text: str | None) -> str:
    return "\r\n" if "\r\n" in (text or "") else "\n"


def _indent(text: str | None) -> int | str:
    """How a JSON file is indented; two blanks where that cannot be seen."""
    for line in (text or "").splitlines()[1:]:
        blank = line[: len(line) - len(line.lstrip())]
        if blank:
            return "\t" if blank.startswith("\t") else len(blank)
    return 2


def prune(value: dict[str, Any], *names: str) -> None:
    """Remove the objects under these names, each in the one before, from the innermost on, where they are empty."""
    if not names:
        return
    inner = value.get(names[0])
    if isinstance(inner, dict):
        prune(inner, *names[1:])
        if not inner:
            del value[names[0]]
