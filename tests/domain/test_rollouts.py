"""Codex's rollouts: messages that stand there twice count once, tool uses have the ids of their hooks."""

import json
from typing import Any

import pytest

from onlooker.domain.rollouts import RolloutReader, is_rollout
from onlooker.domain.transcripts import TranscriptEvent

META = {"id": "c-1", "cwd": "/home/dev/p", "git": {"branch": "main"}}


def line(kind: str, at: int = 0, **payload: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-03-01T10:00:{at:02}.000Z", "type": kind, "payload": payload}


def meta() -> dict[str, Any]:
    return {**line("session_meta"), "payload": META}


def item(kind: str, at: int = 0, **payload: Any) -> dict[str, Any]:
    return line("response_item", at, type=kind, **payload)


def message(role: str, text: str, at: int = 0) -> dict[str, Any]:
    kind = "input_text" if role == "user" else "output_text"
    return item("message", at, role=role, content=[{"type": kind, "text": text}])


def told(kind: str, at: int = 0, **payload: Any) -> dict[str, Any]:
    return line("event_msg", at, type=kind, **payload)


def as_bytes(*lines: Any) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in lines).encode()


def read(*lines: Any) -> tuple[list[TranscriptEvent], RolloutReader]:
    reader = RolloutReader()
    return [*reader.feed(as_bytes(*lines)), *reader.finish()], reader


def kinds(events: list[TranscriptEvent]) -> list[str]:
    return [each.event.event_type for each in events]


def test_a_turn_is_its_prompt_its_uses_and_its_end_each_once() -> None:
    call = {"name": "shell", "arguments": '{"command": ["bash", "-lc", "ls"]}', "call_id": "call_1"}
    events, _ = read(
        meta(),
        message("user", "<environment_context>x</environment_context>"),
        message("user", "list them", 1),
        told("user_message", 1, message="list them"),
        item("reasoning", 2),
        item("function_call", 3, **call),
        item("function_call_output", 4, call_id="call_1", output='{"output": "a.py", "metadata": {"exit_code": 0}}'),
        told("agent_message", 5, message="There is one."),
        message("assistant", "There is one.", 5),
        told("task_complete", 6, last_agent_message="There is one."),
        told("user_message", 7, message="thanks"),
    )
    assert kinds(events) == ["user_prompt", "tool_use", "turn_end", "user_prompt"]
    use = events[1].event
    assert (use.content_session_id, use.tool_use_id, use.phase, use.cwd) == ("c-1", "call_1", "post", "/home/dev/p")
    assert use.payload["tool_input"] == {"command": ["bash", "-lc", "ls"]}
    assert use.payload["git_branch"] == "main"
    assert events[2].event.payload["last_assistant_message"] == "There is one."


def test_what_stands_there_in_one_form_only_counts_too() -> None:
    assert kinds(read(meta(), message("user", "go"), message("assistant", "Gone."))[0]) == ["user_prompt", "turn_end"]
    events, _ = read(meta(), told("user_message", message="go"), told("agent_message", message="Gone."))
    assert kinds(events) == ["user_prompt", "turn_end"]


def test_custom_tools_and_failures_are_told() -> None:
    events, _ = read(
        meta(),
        item("custom_tool_call", name="apply_patch", input="*** Begin Patch", call_id="call_2"),
        item("custom_tool_call_output", call_id="call_2", output='{"success": false, "content": "no such file"}'),
        item("local_shell_call", call_id="call_3", action={"command": ["ls"]}),
        item("function_call_output", call_id="call_3", output={"content": "x", "success": True}),
    )
    assert [(each.event.phase, each.event.payload["tool_name"]) for each in events] == [
        ("failed", "apply_patch"),
        ("post", "shell"),
    ]
    assert events[0].event.payload["error"] == "no such file"


def test_our_own_tools_unknown_lines_and_outputs_without_a_call_are_counted() -> None:
    events, reader = read(
        meta(),
        item("function_call", name="onlooker__search", arguments="{}", call_id="a"),
        item("function_call_output", call_id="b", output="x"),
        line("compacted", message="x"),
        told("token_count"),
        [1],
    )
    assert events == []
    assert set(reader.skipped) == {
        "own_tool",
        "result_without_use",
        "type:compacted",
        "event:token_count",
        "not_an_object",
    }


def test_reading_goes_on_behind_what_was_read_with_the_sessions_name_from_the_first_line() -> None:
    whole = as_bytes(
        meta(), told("user_message", 1, message="one"), told("agent_message", 2, message="Done."),
        told("user_message", 3, message="two"), told("agent_message", 4, message="Done too."),
    )  # fmt: skip
    first = RolloutReader()
    events = list(first.feed(whole))
    head = whole.partition(b"\n")[0] + b"\n"
    again = RolloutReader(first.offset, head)
    events += [*again.feed(whole[first.offset :]), *again.finish()]
    assert kinds(events) == ["user_prompt", "turn_end", "user_prompt", "turn_end"]
    assert {each.event.content_session_id for each in events} == {"c-1"}


@pytest.mark.parametrize(
    "head, is_one",
    [
        (as_bytes(meta()), True),
        (b"\xef\xbb\xbf" + as_bytes(meta()), True),
        (as_bytes({"type": "user", "message": {"content": '"type":"session_meta"'}}), False),
        (b"", False),
    ],
)
def test_a_rollout_is_known_by_its_first_line(head: bytes, is_one: bool) -> None:
    assert is_rollout(head) is is_one
