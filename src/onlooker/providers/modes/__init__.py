"""Modes from their files: those that come with Onlooker, and a person's own in the home's `modes` folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from onlooker.domain.errors import InvalidInput, NotFound
from onlooker.domain.modes import Mode, read_mode

PACKAGED = Path(__file__).parent
OWN_FOLDER = "modes"
ENDING = ".toml"


@dataclass(frozen=True, slots=True)
class ModeFile:
    """A mode's file. `is_own`: it lies in the home, where it also replaces a packaged one of its name."""

    name: str
    path: Path
    is_own: bool

    def read(self) -> Mode:
        """Raises `InvalidInput` with everything that is wrong, `NotFound` when the file is gone."""
        return read_mode_file(self.path)


class Modes:
    """The modes that can be chosen. A file is read once: a changed one counts at the next start."""

    def __init__(self, home: Path | None = None) -> None:
        self._files: Mapping[str, ModeFile] = {each.name: each for each in mode_files(home)}
        self._read: dict[str, Mode] = {}

    def get(self, name: str) -> Mode:
        """Raises `NotFound` for no such mode, `InvalidInput` for one whose file is wrong."""
        if name not in self._read:
            if name not in self._files:
                raise NotFound(f"there is no mode {name}; there are {', '.join(self._files)}")
            self._read[name] = self._files[name].read()
        return self._read[name]

    def version_of(self, mode: Mode) -> str:
        """What tells two texts of a mode apart: its name, for one's own also what is in it."""
        return f"{mode.name}-{mode.digest}" if self._files[mode.name].is_own else mode.name


def mode_files(home: Path | None) -> list[ModeFile]:
    """Every mode's file, by name; one's own in the place of a packaged one of the same name."""
    found = {path.stem: ModeFile(path.stem, path, is_own=False) for path in _toml_files(PACKAGED)}
    if home is not None:
        found |= {path.stem: ModeFile(path.stem, path, is_own=True) for path in _toml_files(home / OWN_FOLDER)}
    return [found[name] for name in sorted(found)]


def read_mode_file(path: Path) -> Mode:
    """The mode in a file, named after it. Raises `InvalidInput` and `NotFound`, both naming the file."""
    try:
        return read_mode(path.stem, path.read_text(encoding="utf-8"))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}", error.issues) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is no text in UTF-8") from None
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error


def _toml_files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.suffix == ENDING)
    except OSError:
        return
