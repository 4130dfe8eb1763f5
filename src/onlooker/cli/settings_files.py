"""Changing other programs' settings files: read strictly, change little, keep a copy, write whole or not at all."""

import json
import os
import re
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from onlooker.domain.errors import Misconfigured

NEW_FILE_MODE = 0o600
BYTE_ORDER_MARK = "\ufeff"
HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


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
    mark, given = _split_mark(before or "")
    try:
        value = json.loads(given) if given.strip() else {}
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
    after = _as_json(value, _indent(before)) + "\n"
    after = mark + after.replace("\n", _line_end(before))
    return Change(path, before, after if value else None)


def _as_json(value: Any, indent: int | str) -> str:
    """As agents write it: only half of a pair, which UTF-8 cannot hold, as its number. Texts cut short have such."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return HALF_OF_A_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def change_toml(path: Path, table: str, block: str) -> Change:
    """A TOML file with a block of ours at its end, or (an empty block) without it. The rest stays to the letter.

    The block has `table`, a dotted name, and tables below it, and says so in comments. Where it is there as it
    should be, nothing changes. Raises `Misconfigured` for a file that is no TOML, before or after.
    """
    before = read_text(path)
    line_end = _line_end(before)
    mark, given = _split_mark(before or "")
    name = table.rpartition(".")[2]
    begin, end = f"# begin: {name}", f"# end: {name}"
    is_ours = begin in given.splitlines()
    if is_ours and block and _table(_read_toml(path, given), table) == _table(tomllib.loads(block), table):
        return Change(path, before, before)
    rest = _without_tables(given, table, begin, end) if is_ours else given
    _read_toml(path, rest)
    after = rest
    if block:
        after = rest.rstrip("\r\n") + 2 * line_end if rest.strip() else ""
        after += f"{begin}\n{block}{end}\n".replace("\n", line_end)
        _read_toml(path, after)
    return Change(path, before, mark + after if after.strip() else None)


def _without_tables(text: str, table: str, begin: str, end: str) -> str:
    """A text without our comments and the tables after the first of them.

    Not simply what stands between the comments: a program that adds a table to the file puts it before a comment at
    the end, which is ours.
    """
    head, _, tail = text.partition(begin)
    line_end = _line_end(text)
    header = re.compile(r"\s*\[\s*" + r"\s*\.\s*".join(map(re.escape, table.split("."))) + r"\s*[.\]]")
    rest: list[str] = []
    undecided: list[str] = []
    inside = True
    for line in tail.split("\n")[1:]:
        is_end = line.rstrip() == end
        if inside and (is_end or (line.lstrip().startswith("[") and not header.match(line))):
            inside = False
            rest += undecided
        if not inside:
            rest += [] if is_end else [line]
        elif not line.strip() or line.lstrip().startswith("#"):
            undecided.append(line)
        else:
            undecided = []
    return head.rstrip("\r\n") + line_end * bool(head.strip()) + "\n".join(rest)


def _table(settings: dict[str, Any], name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _read_toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = f"{path} is not TOML, or has a part of ours already ({error}); it is left as it is"
        raise Misconfigured([problem]) from None


def apply(changes: Sequence[Change], copies: Path) -> list[tuple[Path, Path | None]]:
    """Write the changes; each changed file with the copy that was made of it. Each is read again and compared.

    Copies go below the folder `copies`, by day and time and the file's whole path: beside a file they would lie in
    somebody's repository. Raises `Misconfigured` where one cannot be written; those before it are put back.
    """
    wanted = [each for each in changes if each.is_one]
    check_writable(wanted)
    kept = _new_folder(copies)
    done: list[tuple[Path, Path | None]] = []
    path = None
    try:
        for change in wanted:
            path = change.path
            _check_unchanged(change)
            done.append((change.path, _copy(change, kept)))
            _write(change.path, change.after)
            _check_written(change)
    except (OSError, Misconfigured) as error:
        for change in wanted[: len(done)]:
            with suppress(OSError):
                _write(change.path, change.before)
        if isinstance(error, Misconfigured):
            raise
        raise Misconfigured([f"{path} cannot be written, and nothing was: {error.strerror}"]) from error
    return done


def check_writable(changes: Iterable[Change]) -> None:
    """A file that was made read-only is meant to stay as it is, though it could be replaced. Raises `Misconfigured`."""
    for path in (change.path for change in changes):
        if path.exists() and not os.access(path, os.W_OK):
            raise Misconfigured([f"{path} is read-only; it is left as it is"])


def _check_unchanged(change: Change) -> None:
    if read_text(change.path) != change.before:
        raise Misconfigured([f"{change.path} changed meanwhile; it is left as it is: try again"])


def _check_written(change: Change) -> None:
    if read_text(change.path) != change.after:
        raise Misconfigured([f"{change.path} does not read as it was written"])


def _new_folder(copies: Path) -> Path:
    """Where the copies of this time go; nothing is there yet."""
    name = time.strftime("%Y%m%d-%H%M%S")
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(path for path in map(copies.joinpath, names) if not path.exists())


def _copy(change: Change, folder: Path) -> Path | None:
    if change.before is None:
        return None
    copy = folder / change.path.relative_to(change.path.anchor)
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


def _split_mark(text: str) -> tuple[str, str]:
    """The mark that some editors put at a file's beginning, and the rest."""
    rest = text.removeprefix(BYTE_ORDER_MARK)
    return text[: len(text) - len(rest)], rest


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
