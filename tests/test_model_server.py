"""The model server of the tests as a process of its own, for benches and tests that begin servers and workers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PROGRAM = Path(__file__).parent / "model_server.py"


@contextmanager
def server(**orders: Any) -> Iterator[httpx.Client]:
    command = [sys.executable, str(PROGRAM), "--orders", json.dumps(orders)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with httpx.Client(base_url=process.stdout.readline().strip(), trust_env=False, timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def ask(client: httpx.Client) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": '<event index="0" type="x">\nMARK-7\n</event>'}]}
    return client.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer k"})


def test_it_answers_by_its_script_then_by_itself_and_tells_what_it_was_asked() -> None:
    with server(script=[{"status": 429, "code": "insufficient_quota"}, {"notes": [{"title": "by script"}]}]) as client:
        refused, scripted, own = ask(client), ask(client), ask(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "by script" in scripted.json()["choices"][0]["message"]["content"]
        assert "MARK-7" in own.json()["choices"][0]["message"]["content"]
        assert client.get("/_control").json()["calls"] == 3


def test_it_can_be_steered_while_it_runs() -> None:
    with server() as client:
        client.post("/_control", json={"down": "status"})
        assert ask(client).status_code == 503
        client.post("/_control", json={"down": "", "key": "other"})
        assert ask(client).status_code == 401
        client.post("/_control", json={"key": "k"})
        assert ask(client).status_code == 200
