"""Where an agent works, and which project that is."""

from dataclasses import dataclass

from onlooker.domain.keys import digest

UNKNOWN = "unknown"
"""The project of agents that do not say where they work."""

NAMED = "name:"
"""How the identity of a place begins whose project somebody named: by that name alone it is found."""


@dataclass(frozen=True, slots=True)
class Place:
    """A repository or a folder. `name` is what people call it; `identity` tells it from others of that name.

    Identities are made by `hooks.client.find_place`: `git:HOST/PATH` of the remote, `path:FOLDER`, or `name:PROJECT`.
    """

    name: str
    identity: str

    @property
    def key(self) -> str:
        """What is stored of the identity: of one length, and no path of a person's machine."""
        return digest("place", self.identity.encode(errors="replace").decode())


def place_of_folder(folder: str | None) -> Place:
    """A folder, by its path alone; of any system, there or not."""
    parts = [part for part in (folder or "").replace("\\", "/").split("/") if part.strip()]
    if not parts:
        return Place(UNKNOWN, NAMED + UNKNOWN)
    return Place(parts[-1], "path:" + (folder or "").rstrip("/\\"))
