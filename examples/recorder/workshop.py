"""The tools of the session. Each does its work on real files and answers as Claude Code's own tool does."""

import csv
import difflib
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from recorder.shell import PROJECT, Shell


@dataclass(frozen=True)
class Outcome:
    """`response` is the hook's `tool_response`, `text` what the model reads; a failed tool has only the text."""

    text: str
    response: Any = None
    failed: bool = False


class Workshop:
    """One project folder and what an agent can do in it. Paths are given as the agent gives them, absolute."""

    def __init__(self, shell: Shell, statements: Path) -> None:
        self.shell = shell
        self.statements = statements
        self.todos: list[dict[str, str]] = []

    def use(self, tool: str, given: dict[str, Any], *, at: datetime) -> Outcome:
        """Perform one tool use; an unknown tool raises KeyError."""
        if tool == "Bash":
            return self._bash(given, at)
        return {
            "Read": self._read,
            "Write": self._write,
            "Edit": self._edit,
            "Glob": self._glob,
            "Grep": self._grep,
            "TodoWrite": self._todo_write,
            "mcp__bank__month_totals": self._month_totals,
        }[tool](given)

    def _bash(self, given: dict[str, Any], at: datetime) -> Outcome:
        done = self.shell.run(given["command"], at=at)
        output = "\n".join(part for part in (done.stdout, done.stderr) if part)
        response = {"stdout": done.stdout, "stderr": done.stderr, "interrupted": False, "isImage": False}
        if done.exit_code == 1 and not output and given["command"].startswith("grep "):
            return Outcome("", response | {"returnCodeInterpretation": "No matches found"})
        if done.exit_code:
            return Outcome(f"Exit code {done.exit_code}\n{output}", failed=True)
        return Outcome(output, response)

    def _read(self, given: dict[str, Any]) -> Outcome:
        lines = self._real(given["file_path"]).read_text(encoding="utf-8").splitlines()
        start = given.get("offset", 1)
        shown = lines[start - 1 : start - 1 + given.get("limit", len(lines))]
        text = "\n".join(f"{number:>6}→{line}" for number, line in enumerate(shown, start))
        file = {
            "filePath": given["file_path"],
            "content": "\n".join(shown),
            "numLines": len(shown),
            "startLine": start,
            "totalLines": len(lines),
        }
        return Outcome(text, {"type": "text", "file": file})

    def _write(self, given: dict[str, Any]) -> Outcome:
        path, content = self._real(given["file_path"]), given["content"]
        before = path.read_text(encoding="utf-8") if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        response = {
            "type": "create" if before is None else "update",
            "filePath": given["file_path"],
            "content": content,
            "structuredPatch": [] if before is None else structured_patch(before, content),
            "originalFile": before,
        }
        if before is None:
            return Outcome(f"File created successfully at: {given['file_path']}", response)
        return Outcome(f"The file {given['file_path']} has been updated.", response)

    def _edit(self, given: dict[str, Any]) -> Outcome:
        path, old, new = self._real(given["file_path"]), given["old_string"], given["new_string"]
        everywhere = given.get("replace_all", False)
        before = path.read_text(encoding="utf-8")
        found = before.count(old)
        if not found:
            return Outcome(f"String to replace not found in file.\nString: {old}", failed=True)
        if found > 1 and not everywhere:
            return Outcome(f"Found {found} matches of the string to replace, but replace_all is false.", failed=True)
        after = before.replace(old, new)
        path.write_text(after, encoding="utf-8")
        response = {
            "filePath": given["file_path"],
            "oldString": old,
            "newString": new,
            "originalFile": before,
            "structuredPatch": structured_patch(before, after),
            "userModified": False,
            "replaceAll": everywhere,
        }
        return Outcome(f"The file {given['file_path']} has been updated successfully.", response)

    def _glob(self, given: dict[str, Any]) -> Outcome:
        names = [f"{PROJECT}/{name}" for name in self._files(given["pattern"])]
        response = {"filenames": names, "durationMs": 4, "numFiles": len(names), "truncated": False}
        return Outcome("\n".join(names) or "No files found", response)

    def _grep(self, given: dict[str, Any]) -> Outcome:
        pattern, mode = re.compile(given["pattern"]), given.get("output_mode", "files_with_matches")
        hits = [
            (name, f"{name}:{number}:{line}")
            for name in self._files(given.get("glob", "**/*"))
            for number, line in enumerate((self.shell.root / name).read_text(encoding="utf-8").splitlines(), 1)
            if pattern.search(line)
        ]
        if mode == "content":
            content = "\n".join(line for _, line in hits)
            response = {"mode": mode, "numFiles": 0, "filenames": [], "content": content, "numLines": len(hits)}
            return Outcome(content or "No matches found", response)
        names = sorted({name for name, _ in hits})
        found = f"Found {len(names)} file{'s' if len(names) != 1 else ''}\n" + "\n".join(names)
        response = {"mode": mode, "filenames": names, "numFiles": len(names)}
        return Outcome(found if names else "No files found", response)

    def _todo_write(self, given: dict[str, Any]) -> Outcome:
        old, self.todos = self.todos, given["todos"]
        return Outcome("Todos have been modified successfully.", {"oldTodos": old, "newTodos": self.todos})

    def _month_totals(self, given: dict[str, Any]) -> Outcome:
        """What the bank's MCP server answers: its bookings of a month, added up by category."""
        totals: dict[str, Decimal] = {}
        with (self.statements / f"{given['month']}.csv").open(encoding="utf-8", newline="") as bookings:
            for booking in csv.DictReader(bookings):
                name = booking["category"]
                totals[name] = totals.get(name, Decimal(0)) + Decimal(booking["amount"])
        lines = [f"{name}: {totals[name]}" for name in sorted(totals)]
        text = "\n".join([f"Bookings of {given['month']}", *lines, f"all: {sum(totals.values())}"])
        return Outcome(text, [{"type": "text", "text": text}])

    def _files(self, pattern: str) -> list[str]:
        names = (path.relative_to(self.shell.root) for path in self.shell.root.glob(pattern) if path.is_file())
        return sorted(name.as_posix() for name in names if ".git" not in name.parts)

    def _real(self, path: str) -> Path:
        return self.shell.root / Path(path).relative_to(PROJECT)


def structured_patch(before: str, after: str) -> list[dict[str, Any]]:
    """The hunks between two texts, with three lines of context, in the shape that Edit and Write answer with."""
    old, new = before.splitlines(), after.splitlines()
    hunks = []
    for group in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_grouped_opcodes(3):
        lines = []
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                lines += [f" {line}" for line in old[old_from:old_to]]
            else:
                lines += [f"-{line}" for line in old[old_from:old_to]]
                lines += [f"+{line}" for line in new[new_from:new_to]]
        first, last = group[0], group[-1]
        hunks.append(
            {
                "oldStart": first[1] + 1,
                "oldLines": last[2] - first[1],
                "newStart": first[3] + 1,
                "newLines": last[4] - first[3],
                "lines": lines,
            }
        )
    return hunks
