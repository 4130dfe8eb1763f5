"""What edits did to a file: all edits of a file in one run make one observation."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onlooker.domain.models import Draft, ObservationKind
from onlooker.providers.rules.step import Step, indexes
from onlooker.providers.rules.symbols import (
    called,
    declared,
    imported,
    is_prose_path,
    is_test_path,
    opening_remark,
)
from onlooker.providers.rules.text import (
    NARRATIVE_LENGTH,
    TITLE_LENGTH,
    clip,
    counted,
    facts,
    named,
)

EDIT_TOOLS = frozenset({"Edit", "MultiEdit", "Write", "NotebookEdit"})

_MAX_LINES = 4_000
"""Changed lines of one edit that are looked at, and lines above it that are searched for what it is part of."""

_MAX_COMPARED = 100
"""Lines up to which two texts are compared line by line, which takes quadratic time; longer ones as bags of lines."""

_LONGEST_REPLACEMENT = 80
_SECRET_FILE = re.compile(r"(?:^|/)\.env|secret|credential|password|\.pem$|\.key$|id_rsa", re.IGNORECASE)
_DECISION_FILE = re.compile(r"(?:^|/)(?:adrs?|decisions?)(?:/|\.|$)|decision", re.IGNORECASE)
_PATCH_FILE = re.compile(r"\*\*\* (Add|Update|Delete) File: (.+)")
_ENDS = ("", ".", "!", "?", ":", "…")
_WORD_EDGE = re.compile(r"[\w.]*$")
_WORD_START = re.compile(r"^[\w.]*")


@dataclass(slots=True)
class Hunk:
    """Lines next to each other, each with `+`, `-` or a blank before it; `inside` is what they are part of."""

    lines: list[str]
    inside: str | None = None


@dataclass(slots=True)
class FileEdits:
    """What the edits of a run did to one file."""

    path: str
    steps: list[Step] = field(default_factory=list)
    created: bool = False
    deleted: bool = False
    remark: str = ""
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    symbols: dict[str, str] = field(default_factory=dict)
    """Name → `add`, `remove` or `change`, in the order they were met."""
    replacements: list[tuple[str, str]] = field(default_factory=list)

    def take(self, hunk: Hunk) -> None:
        """Add a hunk's lines, what they declare and what they lie in."""
        inside = hunk.inside
        came: dict[str, None] = {}
        went: dict[str, None] = {}
        prose, fenced = is_prose_path(self.path), False
        for line in hunk.lines:
            sign, text = line[:1], line[1:]
            fenced ^= prose and text.lstrip().startswith("```")
            name = None if fenced else declared(text, self.path)
            if name:
                inside = name
            elif text[:1].strip() and not prose and text[0] not in ")]}#@/*":
                inside = None
            if sign not in ("+", "-"):
                continue
            (self.added if sign == "+" else self.removed).append(text)
            if name:
                (came if sign == "+" else went)[name] = None
            elif inside and text.strip() and inside not in came:
                self._note(inside, "change")
        for name in came:
            self._note(name, "change" if name in went else "add")
        for name in went:
            if name not in came:
                self._note(name, "remove")
        self.replacements.extend(_replacements(hunk.lines))

    def _note(self, name: str, what: str) -> None:
        before = self.symbols.get(name)
        if before is None or (before == "change" and what != "add"):
            self.symbols[name] = what
        elif before == "remove" and what == "add":
            self.symbols[name] = "change"


def observe_edits(steps: Iterable[Step], asked: ObservationKind | None) -> Iterator[Draft]:
    """One draft a file. `asked` is the kind that the run's prompt asks for, where it names one."""
    for file in collect_edits(steps):
        if file.created or file.deleted or file.added or file.removed:
            yield _draft(file, asked)


def collect_edits(steps: Iterable[Step]) -> list[FileEdits]:
    """The edits that succeeded, by file, in the order in which the files were first touched."""
    files: dict[str, FileEdits] = {}
    for step in steps:
        use = step.use
        if use is None or use.failed or use.tool not in EDIT_TOOLS:
            continue
        for path, part in _parts(step):
            file = files.setdefault(path, FileEdits(path))
            if not file.steps or file.steps[-1] is not step:
                file.steps.append(step)
            file.created = file.created or (part.created and len(file.steps) == 1)
            file.deleted = part.deleted
            file.remark = part.remark or file.remark
            for hunk in part.hunks:
                file.take(hunk)
    return list(files.values())


@dataclass(slots=True)
class _Part:
    hunks: list[Hunk]
    created: bool = False
    deleted: bool = False
    remark: str = ""


def _parts(step: Step) -> Iterator[tuple[str, _Part]]:
    use = step.use
    if use is None:
        return
    patch = next((text for text in use.input.values() if isinstance(text, str) and "*** Begin Patch" in text[:200]), "")
    if patch:
        yield from _patch_parts(step, patch)
        return
    if not step.paths:
        return
    path = step.paths[0]
    response: Mapping[str, Any] = use.response if isinstance(use.response, Mapping) else {}
    original = response.get("originalFile")
    original = original if isinstance(original, str) else ""
    hunks = list(_response_hunks(response, original, path)) or list(_input_hunks(use.input, original))
    written = use.input.get("content") if use.tool == "Write" else None
    created = use.tool == "Write" and response.get("type") != "update" and not original
    remark = opening_remark(written[:2_000].splitlines(), path) if isinstance(written, str) else ""
    yield path, _Part(hunks, created=created, remark=remark)


def _patch_parts(step: Step, patch: str) -> Iterator[tuple[str, _Part]]:
    """The files of an `apply_patch`."""
    path, part = "", _Part([])
    for line in patch.splitlines()[: 4 * _MAX_LINES]:
        if found := _PATCH_FILE.match(line):
            if path:
                yield path, part
            path = step.path(found[2].strip())
            part = _Part([Hunk([])], created=found[1] == "Add", deleted=found[1] == "Delete")
        elif line.startswith("@@") and path:
            part.hunks.append(Hunk([], inside=declared(line[2:].strip(), path)))
        elif line[:1] in ("+", "-", " ") and path:
            part.hunks[-1].lines.append(line)
    if path:
        yield path, part


def _response_hunks(response: Mapping[str, Any], original: str, path: str) -> Iterator[Hunk]:
    patch = response.get("structuredPatch")
    if not isinstance(patch, list):
        return
    before = original.splitlines() if patch and original else []
    for hunk in patch:
        lines = hunk.get("lines") if isinstance(hunk, Mapping) else None
        if isinstance(lines, list):
            start = hunk.get("oldStart")
            above = before[: max(start - 1, 0)] if isinstance(start, int) else []
            yield Hunk([line for line in lines[:_MAX_LINES] if isinstance(line, str)], _enclosing(above, path))


def _enclosing(above: Sequence[str], path: str) -> str | None:
    """The declaration that the next line would lie in: the last one, if nothing unindented came after it."""
    for line in reversed(above[-_MAX_LINES:]):
        if name := declared(line, path):
            return name
        if line[:1].strip() and line[0] not in ")]}#@/*" and not is_prose_path(path):
            return None
    return None


def _input_hunks(given: Mapping[str, Any], original: str) -> Iterator[Hunk]:
    """Hunks from the old and the new text, where the response has none."""
    edits = given.get("edits")
    pairs = [given, *(edit for edit in edits if isinstance(edit, Mapping))] if isinstance(edits, list) else [given]
    for pair in pairs:
        old = next(
            (pair[key] for key in ("old_string", "oldString", "old_text") if isinstance(pair.get(key), str)), None
        )
        new = next(
            (pair[key] for key in ("new_string", "newString", "new_source") if isinstance(pair.get(key), str)), None
        )
        if new is None and isinstance(pair.get("content"), str):
            old, new = original, pair["content"]
        if old is not None or new is not None:
            yield Hunk(_difference((old or "").splitlines(), (new or "").splitlines()))


def _difference(old: list[str], new: list[str]) -> list[str]:
    """What differs between two texts, with what stands above. Of long ones lines that only moved are left out."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    gone, come = old[start : len(old) - end], new[start : len(new) - end]
    above = [f" {line}" for line in old[max(start - 40, 0) : start]]
    if max(len(gone), len(come)) <= _MAX_COMPARED:
        return above + list(_compared(gone, come))
    return [
        *above,
        *(f"-{line}" for line in _beyond(gone, come)[:_MAX_LINES]),
        *(f"+{line}" for line in _beyond(come, gone)[:_MAX_LINES]),
    ]


def _compared(old: list[str], new: list[str]) -> Iterator[str]:
    from difflib import SequenceMatcher

    for what, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            yield from (f" {line}" for line in old[i:j])
        else:
            yield from (f"-{line}" for line in old[i:j])
            yield from (f"+{line}" for line in new[k:m])


def _beyond(lines: list[str], others: list[str]) -> list[str]:
    left = Counter(others)
    kept = []
    for line in lines:
        if left[line] > 0:
            left[line] -= 1
        else:
            kept.append(line)
    return kept


def _replacements(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """One line that took the place of one other, cut down to the words that differ."""
    for i in range(len(lines) - 1):
        alone = (i == 0 or lines[i - 1][:1] not in ("-", "+")) and (
            i + 2 >= len(lines) or lines[i + 2][:1] not in ("-", "+")
        )
        if alone and lines[i][:1] == "-" and lines[i + 1][:1] == "+":
            old, new = _differing(lines[i][1:].strip(), lines[i + 1][1:].strip())
            if 0 < len(old) <= _LONGEST_REPLACEMENT and 0 < len(new) <= _LONGEST_REPLACEMENT:
                yield old, new


def _differing(old: str, new: str) -> tuple[str, str]:
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    start -= len(found[0]) if (found := _WORD_EDGE.search(old[max(start - 40, 0) : start])) else 0
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    tail = old[len(old) - end :]
    end -= len(found[0]) if (found := _WORD_START.search(tail[:40])) else 0
    while end and old[len(old) - end] in ")]}" and _is_open(old[start : len(old) - end]):
        end -= 1
    return old[start : len(old) - end].strip(), new[start : len(new) - end].strip()


def _is_open(text: str) -> bool:
    return sum(c in "([{" for c in text) > sum(c in ")]}" for c in text)


def _draft(file: FileEdits, asked: ObservationKind | None) -> Draft:
    secret = _SECRET_FILE.search(file.path) is not None
    imports = _imports(file.added) - _imports(file.removed)
    kind = _kind(file, asked)
    size = f"+{len(file.added)} −{len(file.removed)} lines"
    how = "Created" if file.created else counted(len(file.steps), "edit")
    return Draft(
        kind=kind,
        title=clip(f"{file.path}: {_what(file, imports, secret=secret)}", TITLE_LENGTH),
        subtitle=f"{how}, {size}",
        narrative=clip(_narrative(file), NARRATIVE_LENGTH) if not secret else "",
        facts=() if secret else facts(*_details(file, imports)),
        concepts=_CONCEPTS[kind],
        files_modified=(file.path,),
        sources=indexes(file.steps),
    )


def _details(file: FileEdits, imports: set[str]) -> Iterator[str]:
    if not file.created:
        yield from (f"`{old}` became `{new}`" for old, new in file.replacements[:2])
    if is_prose_path(file.path):
        return
    if imports:
        yield f"Now imports {named(sorted(imports), 5)}"
    if not is_test_path(file.path):
        gone, come = called(file.removed[:_MAX_LINES]), called(file.added[:_MAX_LINES])
        for verb, names in (("Now calls", come.keys() - gone.keys()), ("No longer calls", gone.keys() - come.keys())):
            if names:
                yield f"{verb} {named((name for name in (*come, *gone) if name in names), 6)}"


_CONCEPTS: Mapping[ObservationKind, tuple[str, ...]] = {
    ObservationKind.BUGFIX: ("problem-solution", "what-changed"),
    ObservationKind.FEATURE: ("what-changed", "how-it-works"),
    ObservationKind.REFACTOR: ("what-changed", "pattern"),
    ObservationKind.DECISION: ("why-it-exists", "trade-off"),
    ObservationKind.CHANGE: ("what-changed",),
}


def _kind(file: FileEdits, asked: ObservationKind | None) -> ObservationKind:
    if is_prose_path(file.path):
        decided = "add" in file.symbols.values() and _DECISION_FILE.search(file.path)
        return ObservationKind.DECISION if decided else ObservationKind.CHANGE
    if is_test_path(file.path) or file.deleted:
        return ObservationKind.CHANGE
    if file.created:
        return ObservationKind.FEATURE
    return asked or ObservationKind.CHANGE


def _what(file: FileEdits, imports: set[str], *, secret: bool) -> str:
    if file.deleted:
        return "deleted"
    if file.created:
        names = _names(file, "add", 4)
        return f"new file with {names}" if names else f"new file, {counted(len(file.added), 'line')}"
    said = [f"{what} {names}" for what in ("add", "change", "remove") if (names := _names(file, what, 3))]
    if said:
        return "; ".join(said)
    if imports and len(imports) >= len([line for line in file.added if line.strip()]):
        return f"import {named(sorted(imports), 3)}"
    if file.replacements and not secret:
        old, new = file.replacements[0]
        return f"{clip(old, 40)} became {clip(new, 40)}"
    added = [line for line in file.added if line.strip()]
    if len(added) == 1 and not file.removed and not secret:
        return f"add `{clip(added[0], _LONGEST_REPLACEMENT)}`"
    return f"{counted(len(file.added), 'line')} added, {len(file.removed)} removed"


def _narrative(file: FileEdits) -> str:
    """What the file says it is, and what did not fit into the title."""
    parts = [] if is_prose_path(file.path) else [file.remark if file.remark[-1:] in _ENDS else f"{file.remark}."]
    for word, what in (("Added", "add"), ("Changed", "change"), ("Removed", "remove")):
        if sum(noted == what for noted in file.symbols.values()) > 3:
            parts.append(f"{word} {_names(file, what, 8)}.")
    return " ".join(part for part in parts if part)


def _names(file: FileEdits, what: str, most: int) -> str:
    """The functions, classes or headings that were touched so; of new prose the title only if alone."""
    names = [name for name, noted in file.symbols.items() if noted == what]
    if not is_prose_path(file.path):
        return named(names, most)
    if len(names) > 1 and file.created:
        names = names[1:]
    return named((f"“{name}”" for name in names), most)


def _imports(lines: Iterable[str]) -> set[str]:
    return {name for line in list(lines)[:_MAX_LINES] for name in imported(line)}
