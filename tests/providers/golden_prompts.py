"""The bytes that each provider sends for one part of the recorded session, as text that a person can review.

`python tests/providers/golden_prompts.py` writes them into `tests/providers/golden/`; a test compares.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from model_wires import APIS, Api
from onlooker.domain.models import Event, ObservationKind
from onlooker.domain.payloads import prepare
from onlooker.parts import build_provider
from onlooker.providers.contract import GenerationRequest, RecentNote
from onlooker.providers.model import ModelProvider
from onlooker.providers.modes import Modes
from onlooker.providers.prompt import Form, build_prompt
from onlooker.providers.rendering import Renderer
from onlooker.providers.wire import Request
from onlooker.settings import load_settings
from providers.happened import recorded_events, request_of

FOLDER = Path(__file__).parent / "golden"
EVENTS = slice(1, 20)
"""The first request of the session, up to the first tests that fail."""

KEY = "THE-KEY"


def stored_events() -> list[Event]:
    """The events as they are stored: without private parts and secrets."""
    return [
        event._replace(payload_json=json.dumps(prepare(json.loads(event.payload_json)).value))
        for event in recorded_events()[EVENTS]
    ]


def golden_request() -> GenerationRequest:
    recent = [RecentNote("0193-a", ObservationKind.DISCOVERY, "Amounts are floats from parsing to printing")]
    return replace(
        request_of(stored_events()),
        project_name="tally",
        recent=recent,
        facts=[("agent", "claude-code")],
        language="English",
    )


def request_at(api: Api, form: Form) -> Request:
    settings = load_settings(home=Path("/nonexistent"), provider=api, **{f"{api}_api_key": KEY})
    provider = build_provider(settings)
    assert isinstance(provider, ModelProvider)
    prompt = build_prompt(golden_request(), Modes().get("code"), Renderer(), provider.input_budget)
    return provider._wire.request(prompt, form)


def shown(request: Request) -> str:
    """A request as text: each string on lines of its own, as the model reads it."""
    headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    return f"POST {request.url}\n{headers}\n\n" + "\n".join(_lines(request.body, "")) + "\n"


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and not path.endswith(("schema", "responseSchema")):
        for name, member in value.items():
            yield from _lines(member, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and not path.endswith("required"):
        for n, item in enumerate(value):
            yield from _lines(item, f"{path}[{n}]")
    elif isinstance(value, str) and "\n" in value:
        yield f"{path} ="
        yield from (f"    {line}" if line else "" for line in value.split("\n"))
    else:
        yield f"{path} = {json.dumps(value, ensure_ascii=False)}"


def pages() -> dict[Path, str]:
    return {FOLDER / f"{api}.txt": shown(request_at(api, Form.STRUCTURED)) for api in APIS}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
