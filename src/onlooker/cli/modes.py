"""`onlooker modes …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onlooker.cli.options import json_option, show_table, tell
from onlooker.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from onlooker.domain.modes import Mode


@click.group(epilog="Example: onlooker modes list")
def modes() -> None:
    """List and check modes: what is watched and noted."""


@modes.command("list", epilog="Example: onlooker modes list --json")
@json_option
def list_modes(*, as_json: bool) -> None:
    """List the modes that can be chosen, those that come with Onlooker and your own."""
    from onlooker.parts import mode_files
    from onlooker.settings import load_settings

    settings = load_settings()
    told: list[dict[str, Any]] = []
    for file in mode_files(settings.home):
        mode, problems = _read(file.path)
        told.append(
            {
                "name": file.name,
                "title": mode.title if mode else None,
                "types": [each.name for each in mode.types] if mode else [],
                "own": file.is_own,
                "chosen": file.name == settings.mode,
                "path": str(file.path),
                "problems": problems,
            }
        )
    if as_json:
        tell(as_json, {"modes": told}, str)
        return
    show_table(
        ("name", "title", "types", "file"),
        [
            (
                f"{each['name']} (chosen)" if each["chosen"] else each["name"],
                each["title"] or "cannot be used: onlooker modes check",
                ", ".join(each["types"]),
                each["path"] if each["own"] else "comes with Onlooker",
            )
            for each in told
        ],
    )


@modes.command(epilog="Example: onlooker modes check ~/.onlooker/modes/garden.toml")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(*, files: tuple[Path, ...]) -> None:
    """Check mode files, without FILES all of your own. Exit code 2 when one cannot be used."""
    from onlooker.parts import mode_files
    from onlooker.settings import load_settings

    home = load_settings().home
    paths = files or tuple(file.path for file in mode_files(home) if file.is_own)
    if not paths:
        click.echo(f"{home / 'modes'} has no mode of your own; onlooker modes show code > a file there begins one")
    is_well = True
    for path in paths:
        mode, problems = _read(path)
        is_well = is_well and mode is not None
        if mode is not None:
            click.echo(f"{path}: good, {len(mode.types)} types; ONLOOKER_MODE={mode.name} chooses it in that folder")
        for problem in problems:
            click.echo(f"{path}: {problem}")
    if not is_well:
        click.get_current_context().exit(2)


@modes.command(epilog="Example: onlooker modes show code > ~/.onlooker/modes/mine.toml")
@click.argument("name")
def show(*, name: str) -> None:
    """Print a mode's file, to begin one of your own with."""
    from onlooker.parts import mode_files
    from onlooker.settings import load_settings

    files = {file.name: file for file in mode_files(load_settings().home)}
    if name not in files:
        raise NotFound(f"there is no mode {name}; there are {', '.join(files)}")
    click.echo(files[name].path.read_text(encoding="utf-8"), nl=False)


def _read(path: Path) -> "tuple[Mode | None, list[str]]":
    """A mode and what is wrong with its file."""
    from onlooker.parts import read_mode_file

    try:
        return read_mode_file(path), []
    except InvalidInput as error:
        return None, list(error.issues) or [str(error)]
    except NotFound as error:
        return None, [str(error)]
