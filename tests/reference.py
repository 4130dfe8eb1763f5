"""The parts of the documentation that the code decides: settings and commands.

`python tests/reference.py` writes them into `docs/`; a test compares.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field
from enum import Enum
from pathlib import Path
from typing import Any

import click

from onlooker.cli.main import cli
from onlooker.settings import FIELDS, PREFIX, Secret

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- begin: written by tests/reference.py -->\n", "<!-- end -->\n"
WIDTH = 100


def settings_table() -> str:
    """One row a setting: variable, key in the file, default, example, meaning."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | `{_example(field)}` | {_meaning(field)} |"
        for name, field in FIELDS.items()
    ]
    return "\n".join(["| variable | default | example | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def commands() -> dict[str, str]:
    """Each command and what its `--help` prints."""
    return {path: command.get_help(context).rstrip() for path, command, context in _commands()}


def command_pages() -> str:
    """What `--help` prints, command by command."""
    return "\n".join(f"## {path}\n\n```text\n{text}\n```\n" for path, text in commands().items())


def _commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    waiting: list[tuple[str, click.Command, click.Context | None]] = [("onlooker", cli, None)]
    while waiting:
        path, command, parent = waiting.pop(0)
        context = click.Context(
            command,
            parent=parent,
            info_name=path.rpartition(" ")[2],
            terminal_width=WIDTH,
            **command.context_settings,
        )
        yield path, command, context
        if isinstance(command, click.Group):
            children = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
            waiting[:0] = [(f"{path} {name}", child, context) for name, child in children if child and not child.hidden]


def _default(field: Field[Any]) -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Secret):
        value = value.get_secret_value()
    if value == "":
        return "empty"
    return f"`{int(value) if isinstance(value, bool) else value}`"


def _example(field: Field[Any]) -> str:
    [example] = field.metadata["examples"]
    return str(example)


def _meaning(field: Field[Any]) -> str:
    text: str = field.metadata["description"]
    return text.replace("|", "\\|")


def pages() -> Mapping[Path, str]:
    """Each page and what must stand between its marks."""
    return {DOCS / "configuration.md": settings_table(), DOCS / "cli.md": command_pages()}


def between_marks(text: str) -> tuple[str, str, str]:
    """A page in three parts: before the marks, between them, after them."""
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has lost its marks")
    return before + begin, between, end + after


def main() -> None:
    for path, content in pages().items():
        before, _, after = between_marks(path.read_text(encoding="utf-8"))
        path.write_text(f"{before}\n{content}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
