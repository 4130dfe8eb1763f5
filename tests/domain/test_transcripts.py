"""Claude Code transcripts, with all that is easily missed in them."""

import json
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

from onlooker.domain.adapters import adapt, closing_message_of, prompt_of, read_tool_use
from onlooker.domain.errors import InvalidInput
from onlooker.domain.json_lines import MAX_LINE_BYTES, JsonLines
from onlooker.domain.transcripts import TranscriptEvent, TranscriptReader

COMMON = {"sessionId": "s-1", "cwd": "/home/dev/p", "gitBranch": "main", "isSidechain": False, "version": "2.1.42"}
clock = iter(range(10**9))


def line(kind: str, **fields: Any) -> dict[str, Any]:
    number = next(clock)
    time = f"2026-01-02T03:{number // 60 % 60:02}:{number % 60:02}.000Z"
    return {"type": kind, "uuid": f"u-{number}", "timestamp": time, **COMMON, **fields}


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return line("user", message={"role": "user", "content": content}, **fields)


def says(text: str, message_id: str = "m-1", **fields: Any) -> dict[str, Any]:
    message = {"id": message_id, "role": "assistant", "content": [{"type": "text", "text": text}], "stop_reason": None}
    return line("assistant", message=message, **fields)


def uses(
    use_id: str, name: str = "Bash", tool_input: Any = None, message_id: str = "m-1", **more: Any
) -> dict[str, Any]:
    block = {"type": "tool_use", "id": use_id, "name": name, "input": tool_input or {"command": "ls"}}
    return line("assistant", message={"id": message_id, "role": "assistant", "content": [block]}, **more)


def result(use_id: str, content: Any = "ok", *, error: bool | None = None, **fields: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": use_id, "content": content}
    return user([block if error is None else {**block, "is_error": error}], **fields)


def as_bytes(lines: Iterable[Any]) -> bytes:
    return b"".join(item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n" for item in lines)


def read(*lines: Any, reader: TranscriptReader | None = None) -> list[TranscriptEvent]:
    reader = reader or TranscriptReader()
    events = list(reader.feed(as_bytes(lines)))
    return events + list(reader.finish())


def kinds(events: list[TranscriptEvent]) -> list[tuple[str, str | None]]:
    return [(item.event.event_type, item.event.tool_use_id or text_of(item)) for item in events]


def text_of(item: TranscriptEvent) -> str | None:
    return prompt_of(item.event.payload) or closing_message_of(item.event.payload)


def test_a_turn_becomes_its_prompt_its_tool_uses_and_its_end() -> None:
    events = read(
        user("list the files"),
        says("I'll look."),
        uses("t-1"),
        result("t-1", "a.py", toolUseResult={"stdout": "a.py", "stderr": ""}),
        says("There is one file.", "m-2"),
    )

    assert kinds(events) == [("user_prompt", "list the files"), ("tool_use", "t-1"), ("turn_end", "There is one file.")]
    use = events[1].event
    assert (use.phase, use.content_session_id, use.cwd) == ("post", "s-1", "/home/dev/p")
    assert use.payload["tool_response"] == {"stdout": "a.py", "stderr": ""}
    assert use.occurred_at is not None
    assert use.occurred_at > 1_767_000_000_000


def test_a_tool_use_is_the_same_to_a_key_as_its_hook() -> None:
    hook = adapt(
        {
            "hook_event_name": "PostToolUse",
            "session_id": "s-1",
            "cwd": "/home/dev/p",
            "tool_name": "Bash",
            "tool_input": {"command": "ls"},
            "tool_response": {"stdout": "a.py"},
            "tool_use_id": "t-1",
        },
        "claude-code",
    ).events[0]

    (from_file,) = read(uses("t-1"), result("t-1", "a.py", toolUseResult={"stdout": "a.py"}))

    names = ("event_type", "content_session_id", "tool_use_id", "phase", "agent_id", "cwd")
    assert [getattr(from_file.event, name) for name in names] == [getattr(hook, name) for name in names]
    assert read_tool_use(from_file.event.payload) == read_tool_use(hook.payload)


def test_a_failed_use_has_its_error_and_phase() -> None:
    (item,) = read(
        uses("t-1"), result("t-1", "Exit code 1\nno such file", error=True, toolUseResult="Error: Exit code 1")
    )

    assert item.event.phase == "failed"
    assert item.event.payload["hook_event_name"] == "PostToolUseFailure"
    assert item.event.payload["error"] == "Exit code 1\nno such file"
    assert "tool_response" not in item.event.payload


@pytest.mark.parametrize(
    "fields,response",
    [
        ({}, "text"),
        ({"toolUseResult": {"stdout": "x"}}, {"stdout": "x"}),
        ({"toolUseResult": [{"type": "text", "text": "x"}]}, [{"type": "text", "text": "x"}]),
        ({"toolUseResult": "x"}, "x"),
        ({"toolUseResult": None}, "text"),
    ],
)
def test_a_result_is_of_any_type_or_absent(fields: dict[str, Any], response: Any) -> None:
    (item,) = read(uses("t-1"), result("t-1", "text", **fields))

    assert item.event.payload["tool_response"] == response


def test_results_of_parallel_uses_find_their_use_in_any_order_even_on_one_line() -> None:
    both = [
        {"type": "tool_result", "tool_use_id": "t-2", "content": "two"},
        {"type": "tool_result", "tool_use_id": "t-1", "content": [{"type": "text", "text": "one"}]},
    ]

    events = read(
        uses("t-1", "Read"), uses("t-2", "Grep"), uses("t-3"), result("t-3"), user(both, toolUseResult={"x": 1})
    )

    assert [(item.event.tool_use_id, item.event.payload["tool_name"]) for item in events] == [
        ("t-3", "Bash"),
        ("t-2", "Grep"),
        ("t-1", "Read"),
    ]
    assert events[1].event.payload["tool_response"] == "two"


def test_a_message_split_over_lines_is_one_turn_end() -> None:
    events = read(user("a"), says("One."), says("Two."), user("b"), says("Three.", "m-2"), says("Four.", "m-3"))

    assert [text_of(item) for item in events if item.event.event_type == "turn_end"] == ["One.\nTwo.", "Four."]


def test_a_turn_that_ends_in_work_has_no_end() -> None:
    assert kinds(read(user("a"), says("I'll look."), uses("t-1"))) == [("user_prompt", "a")]


def test_the_clients_own_mark_of_a_turns_end_ends_it_at_once() -> None:
    reader = TranscriptReader()

    events = list(reader.feed(as_bytes([user("a"), says("Done."), line("system", subtype="turn_duration")])))

    assert kinds(events) == [("user_prompt", "a"), ("turn_end", "Done.")]


@pytest.mark.parametrize(
    "fields,content,reason",
    [
        ({"isMeta": True}, "the text of a skill", "meta"),
        ({"isCompactSummary": True}, "This session is being continued", "compact_summary"),
        ({"isVisibleInTranscriptOnly": True}, "summary", "compact_summary"),
        ({}, "[Request interrupted by user for tool use]", "client_text"),
        ({}, "<local-command-stdout>x</local-command-stdout>", "client_text"),
        ({}, "<bash-input>ls</bash-input>", "client_text"),
        ({}, "<task-notification>x</task-notification>", "client_text"),
        ({"origin": {"kind": "task-notification"}}, "done", "not_a_person"),
        ({}, "<command-name>/clear</command-name>\n<command-args></command-args>", "client_command"),
        ({}, "<onlooker-context>x</onlooker-context>", "own_prompt"),
        ({}, "<system-reminder>x</system-reminder>", "empty"),
        ({}, [{"type": "image", "source": {}}], "empty"),
        ({}, None, "empty"),
        ({"isSidechain": True}, "the task of a subagent", "subagent_prompt"),
    ],
)
def test_user_lines_that_no_person_wrote_are_no_prompts(fields: dict[str, Any], content: Any, reason: str) -> None:
    reader = TranscriptReader()

    assert read(user(content, **fields), reader=reader) == []
    assert reader.skipped == {reason: 1}


def test_prompts_from_a_channel_and_commands_with_arguments_are_prompts() -> None:
    command = (
        "<command-message>plan</command-message>\n<command-name>/plan</command-name>\n<command-args>a b</command-args>"
    )

    events = read(
        user("from the channel", isMeta=True, origin={"kind": "channel"}),
        user(command),
        user("<command-name>/review</command-name>"),
        user([{"type": "text", "text": "in a block"}]),
    )

    assert [text_of(item) for item in events] == ["from the channel", "/plan a b", "/review", "in a block"]


def queued(text: str, operation: str = "enqueue") -> dict[str, Any]:
    return {"type": "queue-operation", "operation": operation, "content": text, "sessionId": "s-1"}


def test_steering_that_stands_only_in_the_queue_is_a_prompt_once() -> None:
    events = read(user("start"), queued("also the tests"), queued("", "remove"), uses("t-1"), result("t-1"))

    assert kinds(events) == [("user_prompt", "start"), ("tool_use", "t-1"), ("user_prompt", "also the tests")]


def test_a_queued_prompt_that_comes_again_counts_where_it_is_taken_up() -> None:
    attachment = line("attachment", attachment={"type": "queued_command", "prompt": "b", "commandMode": "prompt"})

    events = read(user("start"), queued("a"), queued("b"), attachment, says("Done."), user("a"))

    assert kinds(events) == [
        ("user_prompt", "start"),
        ("user_prompt", "b"),
        ("turn_end", "Done."),
        ("user_prompt", "a"),
    ]


def test_a_queued_prompt_taken_back_or_sent_by_a_task_is_none() -> None:
    notice = {"type": "queued_command", "prompt": "x", "commandMode": "task-notification"}

    events = read(
        queued("half"),
        queued("", "popAll"),
        queued("<task-notification>x</task-notification>"),
        line("attachment", attachment=notice),
        line("attachment", attachment={"type": "todo"}),
    )

    assert events == []


def test_sidechains_keep_their_agent_and_end_apart_from_the_turn() -> None:
    side: dict[str, Any] = {"isSidechain": True, "agentId": "a-1"}

    events = read(
        user("go"),
        uses("t-1", "Task"),
        user("the task", **side),
        uses("t-2", "Grep", message_id="m-2", **side),
        result("t-2", **side),
        says("Found it.", "m-3", **side),
        result("t-1", toolUseResult={"content": [{"type": "text", "text": "Found it."}]}),
        says("All done.", "m-4"),
    )

    assert [(item.event.event_type, item.event.agent_id) for item in events] == [
        ("user_prompt", None),
        ("tool_use", "a-1"),
        ("tool_use", None),
        ("subagent_end", "a-1"),
        ("turn_end", None),
    ]


def test_the_clients_compaction_progress_and_api_errors_are_no_work() -> None:
    reader = TranscriptReader()
    error = says("API Error: 500")
    error["message"]["model"] = "<synthetic>"

    events = read(
        says("summary", isSidechain=True, agentId="acompact-9f"),
        line("progress", data={"type": "agent_progress", "message": uses("t-9")}),
        error,
        says("API Error: 529", isApiErrorMessage=True),
        {"type": "ai-title", "title": "x"},
        {"type": "something-new", "x": [1]},
        reader=reader,
    )

    assert events == []
    assert reader.skipped == {
        "compaction": 1,
        "type:progress": 1,
        "synthetic": 2,
        "type:ai-title": 1,
        "type:something-new": 1,
    }


def test_lines_without_an_id_or_a_time_are_counted_by_their_kind_however_often_they_come() -> None:
    reader = TranscriptReader()
    kinds = (
        "ai-title", "custom-title", "last-prompt", "mode", "permission-mode", "pr-link", "attachment",
        "file-history-snapshot", "started", "result",
    )  # fmt: skip
    assert read(*[{"type": kind} for kind in kinds] * 2, reader=reader) == []
    assert reader.skipped == {f"type:{kind}": 2 for kind in kinds}


def test_our_own_tools_are_not_observed() -> None:
    reader = TranscriptReader()

    assert read(uses("t-1", "mcp__onlooker__search"), result("t-1"), reader=reader) == []
    assert reader.skipped["own_tool"] == 1


def test_history_that_is_replayed_counts_once() -> None:
    prompt, use, answer = user("a"), uses("t-1"), result("t-1")
    side: dict[str, Any] = {"isSidechain": True, "agentId": "a-1"}

    events = read(
        prompt,
        use,
        answer,
        says("Done.", "m-2"),
        prompt,
        use,
        answer,
        says("Done.", "m-2"),
        uses("t-1", **side),
        result("t-1", **side),
    )

    assert kinds(events) == [("user_prompt", "a"), ("tool_use", "t-1"), ("turn_end", "Done.")]


def test_several_sessions_in_one_file_keep_their_ids_and_times_are_not_put_in_order() -> None:
    events = read(
        user("a", timestamp="2026-01-02T00:00:10Z"),
        user("b", sessionId="s-2", timestamp="2026-01-02T00:00:05Z"),
        {"type": "user", "message": {"content": "c"}, "timestamp": "not a time"},
    )

    assert [item.event.content_session_id for item in events] == ["s-1", "s-2", "s-2"]
    assert [item.event.occurred_at for item in events] == [1767312010000, 1767312005000, None]


@pytest.mark.parametrize(
    "broken",
    [
        line("assistant", message=None),
        line("assistant", message={"content": 7}),
        line("assistant", message={"content": [None, "x", {"type": "tool_use", "id": 3}, {"type": "text"}]}),
        line("user", message={"content": [{"type": "tool_result", "tool_use_id": {}, "content": 5}]}),
        line("user", message="x"),
        line("user", sessionId=7, message={"content": [{"type": "text", "text": 7}]}),
        line("attachment", attachment=[]),
        {"type": 7},
        {"no": "type"},
        {},
        [],
        7,
        None,
    ],
)
def test_lines_of_wrong_types_are_skipped_and_the_rest_goes_on(broken: Any) -> None:
    assert kinds(read(user("a"), broken, user("b"))) == [("user_prompt", "a"), ("user_prompt", "b")]


def test_a_half_written_last_line_is_read_when_it_is_whole() -> None:
    data = as_bytes([user("split")])
    reader = TranscriptReader()

    assert list(reader.feed(data[:-9])) == []
    assert reader.offset == 0
    events = list(reader.feed(data[-9:]))

    assert kinds(events) == [("user_prompt", "split")]
    assert reader.offset == len(data)
    assert reader.rejected == []


def test_a_half_written_last_line_stays_unread_at_the_end() -> None:
    whole, half = as_bytes([user("a")]), as_bytes([user("b")])[:-9]
    reader = TranscriptReader()

    events = list(reader.feed(whole + half)) + list(reader.finish())

    assert kinds(events) == [("user_prompt", "a")]
    assert (reader.offset, reader.rejected) == (len(whole), [])


def test_a_whole_last_line_without_its_end_is_read_at_the_end() -> None:
    data = as_bytes([user("a"), user("b")])[:-1]
    reader = TranscriptReader()

    events = list(reader.feed(data)) + list(reader.finish())

    assert kinds(events) == [("user_prompt", "a"), ("user_prompt", "b")]
    assert reader.offset == len(data)


def test_two_objects_on_one_line_are_two() -> None:
    glued = json.dumps(user("a")).encode() + json.dumps(user("b")).encode() + b"\n"

    assert kinds(read(glued, user("c"))) == [("user_prompt", "a"), ("user_prompt", "b"), ("user_prompt", "c")]


def test_a_whole_object_behind_half_of_one_is_found() -> None:
    reader = TranscriptReader()
    glued = json.dumps(user("lost"))[:60].encode() + json.dumps(user("found")).encode() + b"\n"

    events = read(user("first"), glued, reader=reader)

    assert [text_of(item) for item in events] == ["first", "found"]
    assert [rejected.reason for rejected in reader.rejected] == ["not JSON"]


@pytest.mark.parametrize(
    "bad,reason",
    [
        (b'{"type":"user","message":{"content":"\xff"}}\n', "invalid UTF-8 at byte 37"),
        (b'{"type":"user","uuid":"u9","mess\n', "not JSON"),
        (b"plain text\n", "not JSON"),
        (b'{"a":' * 5_000 + b"\n", "nested too deeply"),
        (b'{"a":' + b"1" * 5_000 + b"}\n", "not JSON"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason_and_does_not_block(bad: bytes, reason: str) -> None:
    reader = TranscriptReader()
    before = as_bytes([user("a")])

    events = read(before, bad, user("b"), reader=reader)

    assert [text_of(item) for item in events] == ["a", "b"]
    assert [(rejected.offset, rejected.reason) for rejected in reader.rejected] == [(len(before), reason)]


def test_line_ends_of_windows_marks_blank_lines_and_zeros_are_no_matter() -> None:
    data = (
        b"\xef\xbb\xbf"
        + as_bytes([user("a")]).replace(b"\n", b"\r\n")
        + b"\r\n\n\x00\x00\x00\n"
        + as_bytes([user("b")])
    )
    reader = TranscriptReader()

    assert [text_of(item) for item in read(data, reader=reader)] == ["a", "b"]
    assert (reader.rejected, reader.offset) == ([], len(data))


def test_a_line_of_a_megabyte_is_read() -> None:
    (item,) = read(uses("t-1", "Read"), result("t-1", "x" * 1_000_000))

    assert len(item.event.payload["tool_response"]) == 1_000_000


def test_a_line_beyond_all_measure_is_not_kept_in_memory() -> None:
    lines = JsonLines()
    part = b"x" * (8 * 1024 * 1024)

    tracemalloc.start()
    for _ in range(MAX_LINE_BYTES // len(part) + 2):
        assert list(lines.feed(part)) == []
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert held < len(part) * 2
    assert [value for _, value in lines.feed(b'y\n{"a": 1}\n')] == [{"a": 1}]
    assert lines.rejected[0].reason == f"more than {MAX_LINE_BYTES} bytes"


SESSION = [
    user("a"),
    says("Looking.", "m-1"),
    uses("t-1"),
    uses("t-2", "Read", message_id="m-1"),
    result("t-2", "x" * 300),
    result("t-1", toolUseResult={"stdout": "é"}),
    queued("steer"),
    uses("t-3", message_id="m-2"),
    result("t-3", error=True),
    says("Done", "m-3"),
    says("and dusted.", "m-3"),
    user("b"),
    uses("t-4", message_id="m-4"),
    user("c"),
    says("Bye.", "m-5"),
]


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_the_events_do_not_depend_on_how_the_bytes_come(size: int) -> None:
    data = as_bytes(SESSION)
    reader = TranscriptReader()

    events = [item for at in range(0, len(data), size) for item in reader.feed(data[at : at + size])]

    assert events + list(reader.finish()) == read(data)


def test_reading_goes_on_anywhere_without_losing_an_event() -> None:
    data = as_bytes(SESSION)
    everything = read(data)

    for cut in range(0, len(data), 97):
        first = TranscriptReader()
        events = list(first.feed(data[:cut]))
        second = TranscriptReader(first.offset)
        events += list(second.feed(data[first.offset :])) + list(second.finish())
        assert {json.dumps(item.event.payload) for item in events} == {
            json.dumps(item.event.payload) for item in everything
        }


def test_the_offset_waits_for_a_result_but_not_for_ever() -> None:
    reader = TranscriptReader()
    start = as_bytes([user("a")])

    list(reader.feed(start + as_bytes([uses("t-1"), user("b")])))
    waiting = reader.offset
    list(reader.feed(as_bytes([user("c")])))

    assert waiting == len(start)
    assert reader.offset > waiting
    assert reader.skipped["use_without_result"] == 1


@pytest.mark.parametrize(
    "data,what",
    [
        (b'{"timestamp":"t","type":"session_meta","payload":{"id":"x"}}\n', "a Codex rollout"),
        (
            b'{"timestamp":"t","type":"response_item","payload":{}}\n',
            "rollout that does not begin with its session_meta",
        ),
        (b'{"sessionId":"x","projectHash":"y","messages":[]}\n', "a Gemini CLI session"),
        (
            b'{\n  "sessionId": "x",\n  "messages": [\n    {"type": "user", "content": "a"}\n  ]\n}\n',
            "one JSON document",
        ),
        (b"[\n  1\n]\n", "one JSON document"),
    ],
)
def test_files_of_other_agents_are_known_and_named(data: bytes, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        list(TranscriptReader().feed(data))


def test_a_long_file_is_read_in_flat_memory() -> None:
    reader = TranscriptReader()
    tracemalloc.start()
    count = peak = 0
    for turn in range(3_000):
        lines = [user(f"prompt {turn}"), uses(f"t-{turn}", message_id=f"m-{turn}"), result(f"t-{turn}", "x" * 2_000)]
        count += sum(1 for _ in reader.feed(as_bytes(lines)))
        if turn == 300:
            tracemalloc.reset_peak()
            peak = tracemalloc.get_traced_memory()[0]
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 6_000
    assert highest - peak < 3_000_000
