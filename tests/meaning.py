"""An embedder for tests: a text's vector says how often each of a few themes is in it, whatever words they are in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from onlooker.domain.errors import ProviderError
from onlooker.providers.embedders.contract import unit_vector

THEMES = (
    ("car", "vehicle", "automobile", "wagen"),
    ("cache", "memory", "zwischenspeicher"),
    ("lunch", "dinner", "meal"),
)


@dataclass
class ThemeEmbedder:
    """Remembers what it was asked; fails with `error` while that is set."""

    name: str = "themes"
    most_at_once: int = 4
    notes: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    error: ProviderError | None = None

    async def model(self) -> str:
        if self.error is not None:
            raise self.error
        return f"{self.name}/{len(THEMES) + 1}"

    async def embed_notes(self, texts: Sequence[str]) -> list[bytes]:
        if self.error is not None:
            raise self.error
        self.notes += texts
        self.batches.append(len(texts))
        return [self._vector(text) for text in texts]

    async def embed_question(self, text: str) -> bytes:
        if self.error is not None:
            raise self.error
        return self._vector(text)

    async def close(self) -> None:
        """Nothing is open."""

    def _vector(self, text: str) -> bytes:
        words = text.lower().split()
        return unit_vector([0.1, *(float(sum(words.count(word) for word in theme)) for theme in THEMES)])
