"""Hook payloads as each agent sends them, and what they become."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onlooker.domain.adapters import (
    AgentEvent,
    adapt,
    canonical_event_type,
    closing_message_of,
    phase_of,
    prompt_of,
    tool_use_id_of,
)

CLAUDE = {
    "session_id": "s-1",
    "transcript_path": "/home/dev/.claude/projects/p/s-1.jsonl",
    "cwd": "/home/dev/p",
    "permission_mode": "default",
    "hook_event_name": "PostToolUse",
    "tool_name": "Bash",
    "tool_input": {"command": "git status"},
    "tool_response": {"stdout": "On branch main", "stderr": "", "interrupted": False, "isImage": False},
    "tool_use_id": "toolu_1",
}


def only(payload: Any, platform: str = "claude-code") -> AgentEvent:
    adapted = adapt(payload, platform)
    assert adapted.skipped == ()
    (event,) = adapted.events
    return event


@pytest.mark.parametrize(
    "name,event_type,phase",
    [
        ("SessionStart", "session_start", None),
        ("UserPromptSubmit", "user_prompt", None),
        ("PreToolUse", "tool_use", "pre"),
        ("PostToolUse", "tool_use", "post"),
        ("PostToolUseFailure", "tool_use", "failed"),
        ("Stop", "turn_end", None),
        ("SubagentStop", "subagent_end", None),
        ("PreCompact", "pre_compact", None),
        ("SessionEnd", "session_end", None),
        ("Notification", "notification", None),
        ("PermissionRequest", "PermissionRequest", None),
    ],
)
def test_every_claude_event_has_our_name_or_keeps_its_own(name: str, event_type: str, phase: str | None) -> None:
    event = only({**CLAUDE, "hook_event_name": name})

    assert (event.event_type, event.phase, event.content_session_id) == (event_type, phase, "s-1")
    assert canonical_event_type(name) == event_type
    assert canonical_event_type(event_type) == event_type


def test_a_tool_use_keeps_its_fields_and_is_identified() -> None:
    event = only({**CLAUDE, "duration_ms": 12, "agent_id": "a-7", "agent_type": "Explore"})

    assert (event.tool_use_id, event.cwd, event.agent_id, event.agent_type) == (
        "toolu_1",
        "/home/dev/p",
        "a-7",
        "Explore",
    )
    assert event.payload["tool_response"] == CLAUDE["tool_response"]
    assert event.payload["duration_ms"] == 12


@pytest.mark.parametrize(
    "name,event_type,more",
    [
        ("Stop", "turn_end", {"last_assistant_message": "Done.", "background_tasks": [{"id": 1}], "session_crons": []}),
        ("UserPromptSubmit", "user_prompt", {"prompt": "go", "prompt_id": "p-1", "scratchpad_dir": "/var/s"}),
        ("PreCompact", "pre_compact", {"trigger": "auto", "custom_instructions": ""}),
        ("PreCompact", "pre_compact", {"trigger": "manual"}),
        *(("SessionStart", "session_start", {"source": each}) for each in ("startup", "resume", "clear", "compact")),
        *(
            ("SessionEnd", "session_end", {"reason": each})
            for each in ("clear", "logout", "prompt_input_exit", "other")
        ),
        ("PermissionRequest", "PermissionRequest", {"tool_name": "Bash", "tool_input": {"command": "rm x"}}),
    ],
)
def test_every_field_of_an_event_is_kept(name: str, event_type: str, more: dict[str, Any]) -> None:
    event = only({"session_id": "s-1", "cwd": "/p", "hook_event_name": name, **more})
    assert (event.event_type, event.content_session_id, event.cwd) == (event_type, "s-1", "/p")
    assert {key: event.payload[key] for key in more} == more


def test_a_batch_repeats_its_uses_with_the_same_id_and_phase() -> None:
    batch = {
        "session_id": "s-1",
        "cwd": "/home/dev/p",
        "hook_event_name": "PostToolBatch",
        "tool_calls": [
            {"tool_name": "Bash", "tool_input": {}, "tool_use_id": "toolu_1", "tool_response": "On branch main"},
            {"tool_name": "Read", "tool_input": {}, "tool_use_id": "toolu_2", "tool_response": "x"},
            {"tool_name": "Read", "tool_input": {}, "tool_use_id": "toolu_3", "is_error": True},
        ],
    }

    events = adapt(batch, "claude-code").events

    single = only(CLAUDE)
    assert (events[0].tool_use_id, events[0].phase, events[0].event_type) == ("toolu_1", "post", single.event_type)
    assert events[0].payload["hook_event_name"] == "PostToolUse"
    assert [(event.tool_use_id, event.phase) for event in events[1:]] == [("toolu_2", "post"), ("toolu_3", "failed")]


@pytest.mark.parametrize("calls", [None, [], "x", 3])
def test_a_batch_of_nothing_is_skipped_with_a_reason(calls: Any) -> None:
    adapted = adapt({"hook_event_name": "PostToolBatch", "tool_calls": calls}, "claude-code")

    assert (adapted.events, adapted.skipped) == ((), ("empty_batch",))


def test_a_failure_has_an_error_and_no_response() -> None:
    event = only(
        {
            "hook_event_name": "PostToolUseFailure",
            "session_id": "s-1",
            "tool_name": "Bash",
            "tool_input": {"command": "false"},
            "tool_use_id": "toolu_9",
            "error": "Exit code 1",
            "is_interrupt": False,
        }
    )

    assert (event.phase, event.tool_use_id, event.payload["error"]) == ("failed", "toolu_9", "Exit code 1")


def test_tool_output_is_another_name_of_the_response() -> None:
    payload = {key: value for key, value in CLAUDE.items() if key != "tool_response"}

    assert only({**payload, "tool_output": "x"}).payload["tool_response"] == "x"
    assert only({**CLAUDE, "tool_output": "x"}).payload["tool_response"] == CLAUDE["tool_response"]


def test_a_subagent_stop_with_an_empty_type_and_no_start_is_kept() -> None:
    event = only({"hook_event_name": "SubagentStop", "session_id": "s-1", "agent_id": "a-1", "agent_type": ""})

    assert (event.event_type, event.agent_id, event.agent_type) == ("subagent_end", "a-1", None)


@pytest.mark.parametrize("missing", [{}, {"session_id": None, "cwd": None}])
def test_missing_fields_leave_the_event_standing(missing: dict[str, Any]) -> None:
    payload = {key: value for key, value in CLAUDE.items() if key not in {"session_id", "cwd"}}

    event = only({**payload, **missing})

    assert (event.content_session_id, event.cwd) == (None, None)


def test_fields_of_a_wrong_type_are_counted_and_the_event_kept() -> None:
    adapted = adapt({**CLAUDE, "session_id": 17, "cwd": ["x"], "agent_id": {}}, "claude-code")

    assert set(adapted.wrong) == {"session_id", "cwd", "agent_id"}
    assert adapted.events[0].content_session_id is None
    assert adapted.events[0].payload["session_id"] == 17


@pytest.mark.parametrize(
    "payload,reason",
    [
        ([], "not_an_object"),
        (None, "not_an_object"),
        ("{}", "not_an_object"),
        ({}, "no_event_name"),
        ({**CLAUDE, "tool_name": ""}, "no_tool_name"),
        ({**CLAUDE, "tool_name": None}, "no_tool_name"),
        ({**CLAUDE, "tool_name": "mcp__onlooker__search"}, "own_tool"),
        ({**CLAUDE, "tool_name": "mcp__plugin_onlooker_onlooker__search"}, "own_tool"),
        ({"hook_event_name": "UserPromptSubmit", "prompt": "<onlooker-observer>\nSummarise"}, "own_prompt"),
        ({"hook_event_name": "UserPromptSubmit", "prompt": " <onlooker-context>a</onlooker-context>\n"}, "own_prompt"),
    ],
)
def test_what_is_no_event_is_skipped_with_its_reason(payload: Any, reason: str) -> None:
    adapted = adapt(payload, "claude-code")

    assert (adapted.events, adapted.skipped) == ((), (reason,))


@pytest.mark.parametrize("tool", ["mcp__github__search", "Bash", "mcp__onlookers__x", "mcp__my_onlooker_tool__x"])
def test_tools_of_others_are_not_taken_for_our_own(tool: str) -> None:
    assert only({**CLAUDE, "tool_name": tool}).payload["tool_name"] == tool


def test_a_prompt_behind_our_context_is_still_a_prompt() -> None:
    prompt = "<onlooker-context>notes</onlooker-context>\nfix the parser"

    assert only({"hook_event_name": "UserPromptSubmit", "prompt": prompt}).payload["prompt"] == prompt


def test_a_payload_without_a_name_is_known_by_its_fields() -> None:
    assert only({"tool_name": "Bash", "tool_input": {}, "tool_response": "x"}).phase == "post"
    assert only({"tool_name": "Bash", "tool_input": {}, "error": "x"}).phase == "failed"
    assert only({"prompt": "hello"}).event_type == "user_prompt"


def test_codex_sends_claudes_names_and_a_turn() -> None:
    event = only(
        {
            "hook_event_name": "PostToolUse",
            "session_id": "c-1",
            "turn_id": "t-1",
            "model": "gpt-5-codex",
            "tool_name": "Bash",
            "tool_input": {"command": "ls"},
            "tool_response": "a.py\n",
            "tool_use_id": "call_abc",
        },
        "codex",
    )

    assert (event.tool_use_id, event.payload["turn_id"], event.payload["tool_response"]) == (
        "call_abc",
        "t-1",
        "a.py\n",
    )


def test_codexs_turn_notification_is_a_turn_end() -> None:
    event = only(
        {"type": "agent-turn-complete", "thread-id": "c-1", "turn-id": "t-1", "last-assistant-message": "Done."},
        "codex",
    )

    assert (event.event_type, event.content_session_id, closing_message_of(event.payload)) == (
        "turn_end",
        "c-1",
        "Done.",
    )


CURSOR = {
    "conversation_id": "conv-1",
    "generation_id": "gen-1",
    "workspace_roots": ["/home/dev/p"],
    "user_email": "dev@example.com",
    "transcript_path": None,
    "cwd": "",
}


def test_cursors_shell_command_becomes_a_bash_use_without_the_mail_address() -> None:
    event = only(
        {**CURSOR, "hook_event_name": "afterShellExecution", "command": "npm test", "output": "ok", "duration": 3},
        "cursor",
    )

    assert (event.content_session_id, event.cwd, event.phase) == ("conv-1", "/home/dev/p", "post")
    assert event.payload["tool_name"] == "Bash"
    assert event.payload["tool_input"] == {"command": "npm test"}
    assert event.payload["tool_response"] == {"stdout": "ok"}
    assert "dev@example.com" not in json.dumps(event.payload)


def test_cursors_json_inside_strings_is_unpacked_even_behind_a_byte_order_mark() -> None:
    event = only(
        {
            **CURSOR,
            "hook_event_name": "afterMCPExecution",
            "tool_name": "query",
            "tool_input": '\ufeff{"query": "SELECT 1"}',
            "result_json": '{"content": [{"type": "text", "text": "1"}]}',
        },
        "cursor",
    )

    assert event.payload["tool_input"] == {"query": "SELECT 1"}
    assert event.payload["tool_response"] == {"content": [{"type": "text", "text": "1"}]}


def test_cursors_file_edit_has_edits_and_no_tool_name() -> None:
    edits = [{"old_string": "a", "new_string": "b"}]
    event = only({**CURSOR, "hook_event_name": "afterFileEdit", "file_path": "/p/a.ts", "edits": edits}, "cursor")

    assert event.payload["tool_name"] == "Edit"
    assert event.payload["tool_input"] == {"file_path": "/p/a.ts", "edits": edits}


def test_cursors_opened_file_is_not_kept() -> None:
    event = only({**CURSOR, "hook_event_name": "beforeReadFile", "file_path": "/p/.env", "content": "A=1"}, "cursor")

    assert (event.phase, event.payload["tool_input"]) == ("pre", {"file_path": "/p/.env"})
    assert "A=1" not in json.dumps(event.payload)


@pytest.mark.parametrize(
    "name,event_type,phase",
    [
        ("sessionStart", "session_start", None),
        ("postToolUse", "tool_use", "post"),
        ("postToolUseFailure", "tool_use", "failed"),
        ("preToolUse", "tool_use", "pre"),
        ("beforeShellExecution", "tool_use", "pre"),
        ("subagentStop", "subagent_end", None),
        ("preCompact", "pre_compact", None),
        ("stop", "turn_end", None),
        ("sessionEnd", "session_end", None),
    ],
)
def test_cursors_other_events(name: str, event_type: str, phase: str | None) -> None:
    event = only({**CURSOR, "hook_event_name": name, "tool_name": "Shell", "tool_use_id": "u-1"}, "cursor")

    assert (event.event_type, event.phase) == (event_type, phase)
    assert event.tool_use_id == ("u-1" if event_type == "tool_use" else None)


def test_cursors_prompt_and_message() -> None:
    prompt = only({**CURSOR, "hook_event_name": "beforeSubmitPrompt", "prompt": "fix it", "attachments": []}, "cursor")
    answer = only({**CURSOR, "hook_event_name": "afterAgentResponse", "text": "Fixed."}, "cursor")

    assert prompt_of(prompt.payload) == "fix it"
    assert (answer.event_type, closing_message_of(answer.payload)) == ("agent_response", "Fixed.")


def test_cursors_thoughts_and_completions_are_no_events() -> None:
    names = ["afterAgentThought", "afterTabFileEdit", "beforeTabFileRead"]

    reasons = [adapt({**CURSOR, "hook_event_name": name}, "cursor").skipped for name in names]

    assert reasons == [("thought",), ("completion",), ("completion",)]


def windsurf(action: str, **info: Any) -> dict[str, Any]:
    return {
        "agent_action_name": action,
        "trajectory_id": "t-1",
        "execution_id": "e-1",
        "timestamp": "2026-01-02T03:04:05Z",
        "tool_info": info,
    }


def test_windsurfs_command_has_no_output() -> None:
    event = only(windsurf("post_run_command", command_line="make", cwd="/p"), "windsurf")

    assert (event.content_session_id, event.cwd, event.phase) == ("t-1", "/p", "post")
    assert event.payload["tool_input"] == {"command": "make"}
    assert "tool_response" not in event.payload
    assert event.occurred_at == 1767323045000


def test_windsurfs_edits_mcp_calls_prompts_and_answers() -> None:
    edits = [{"old_string": "a", "new_string": "b"}]
    edit = only(windsurf("post_write_code", file_path="/p/a.ts", edits=edits), "windsurf")
    call = only(
        windsurf(
            "post_mcp_tool_use",
            mcp_server_name="github",
            mcp_tool_name="search",
            mcp_tool_arguments={"q": "x"},
            mcp_result="[]",
        ),
        "windsurf",
    )
    prompt = only(windsurf("pre_user_prompt", user_prompt="fix it"), "windsurf")
    answer = only(windsurf("post_cascade_response", response="Fixed."), "windsurf")

    assert (edit.payload["tool_name"], edit.payload["tool_input"]["edits"]) == ("Edit", edits)
    assert (call.payload["tool_name"], call.payload["tool_input"]) == ("mcp__github__search", {"q": "x"})
    assert (prompt.event_type, prompt_of(prompt.payload)) == ("user_prompt", "fix it")
    assert (answer.event_type, closing_message_of(answer.payload)) == ("turn_end", "Fixed.")


def test_windsurfs_doubles_and_our_own_calls_are_skipped() -> None:
    own = windsurf("post_mcp_tool_use", mcp_server_name="onlooker", mcp_tool_name="search")

    assert adapt(own, "windsurf").skipped == ("own_tool",)
    assert adapt(windsurf("post_cascade_response_with_transcript"), "windsurf").skipped == ("double",)
    assert adapt({**windsurf("post_run_command"), "tool_info": 3}, "windsurf").wrong == ("tool_info",)


@pytest.mark.parametrize(
    "response,phase",
    [
        ("Output: ok", "post"),
        ({"output": "ok"}, "post"),
        ({"llmContent": "ok", "returnDisplay": "ok"}, "post"),
        ({"llmContent": "", "error": {"message": "no such file", "type": "x"}}, "failed"),
    ],
)
def test_geminis_tool_responses(response: Any, phase: str) -> None:
    event = only(
        {
            "hook_event_name": "AfterTool",
            "session_id": "g-1",
            "cwd": "/p",
            "timestamp": "2026-01-02T03:04:05.678Z",
            "tool_name": "run_shell_command",
            "tool_input": {"command": "ls"},
            "tool_response": response,
        },
        "gemini-cli",
    )

    assert (event.phase, event.tool_use_id, event.occurred_at) == (phase, None, 1767323045678)
    assert event.payload.get("error") == ("no such file" if phase == "failed" else None)


def test_geminis_turns_and_compressions() -> None:
    prompt = only({"hook_event_name": "BeforeAgent", "session_id": "g-1", "prompt": "fix it"}, "gemini-cli")
    answer = only(
        {"hook_event_name": "AfterAgent", "session_id": "g-1", "prompt": "fix it", "prompt_response": "Fixed."},
        "gemini-cli",
    )

    assert (prompt.event_type, answer.event_type) == ("user_prompt", "turn_end")
    assert closing_message_of(answer.payload) == "Fixed."
    assert only({"hook_event_name": "PreCompress", "trigger": "auto"}, "gemini-cli").event_type == "pre_compact"
    assert adapt({"hook_event_name": "AfterModel"}, "gemini-cli").skipped == ("model_traffic",)
    own = {"hook_event_name": "AfterTool", "tool_name": "search", "mcp_context": {"server_name": "onlooker"}}
    assert adapt(own, "gemini-cli").skipped == ("own_tool",)


def test_opencodes_call_is_identified_by_its_call_id() -> None:
    event = only(
        {
            "hook_event_name": "tool.execute.after",
            "directory": "/p",
            "input": {"tool": "bash", "sessionID": "o-1", "callID": "call-1"},
            "output": {"title": "ls", "output": "a.py", "metadata": {"exit": 0}, "args": {"command": "ls"}},
        },
        "opencode",
    )

    assert (event.tool_use_id, event.content_session_id, event.cwd) == ("call-1", "o-1", "/p")
    assert event.payload["tool_input"] == {"command": "ls"}
    assert event.payload["tool_response"]["output"] == "a.py"


def test_opencodes_sessions_and_prompts() -> None:
    prompt = only(
        {
            "hook_event_name": "chat.message",
            "input": {"sessionID": "o-1"},
            "output": {"parts": [{"type": "text", "text": "fix it"}, {"type": "file", "url": "x"}]},
        },
        "opencode",
    )
    idle = only({"type": "session.idle", "properties": {"sessionID": "o-1"}}, "opencode")
    made = only({"type": "session.created", "properties": {"info": {"id": "o-1"}}}, "opencode")

    assert (prompt.event_type, prompt_of(prompt.payload)) == ("user_prompt", "fix it")
    assert (idle.event_type, idle.content_session_id) == ("turn_end", "o-1")
    assert (made.event_type, made.content_session_id) == ("session_start", "o-1")


def test_an_unknown_agent_is_read_by_claudes_names() -> None:
    assert only(CLAUDE, "some-new-agent").tool_use_id == "toolu_1"


@pytest.mark.parametrize("name", ["tool_use_id", "toolUseId", "callID"])
def test_the_tool_use_id_is_found_under_each_of_its_names(name: str) -> None:
    assert tool_use_id_of({name: "t"}) == "t"
    assert tool_use_id_of({name: 7}) is None
    assert tool_use_id_of({name: ""}) is None


@pytest.mark.parametrize(
    "event_type,payload,phase",
    [
        ("tool_use", {"hook_event_name": "PostToolUse"}, "post"),
        ("tool_use", {"hook_event_name": "PostToolBatch"}, "post"),
        ("tool_use", {"hook_event_name": "PostToolUseFailure"}, "failed"),
        ("tool_use", {"hook_event_name": "PreToolUse"}, "pre"),
        ("PostToolUseFailure", {}, "failed"),
        ("tool_use", {}, "post"),
        ("tool_use", {"error": "x"}, "failed"),
        ("tool_use", {"error": "x", "tool_response": "y"}, "post"),
        ("tool_use", {"hook_event_name": 7}, "post"),
        ("user_prompt", {"prompt": "x"}, None),
        ("UserPromptSubmit", {}, None),
    ],
)
def test_the_phase_of_a_stored_event(event_type: str, payload: dict[str, Any], phase: str | None) -> None:
    assert phase_of(event_type, payload) == phase


NAMES = [
    "hook_event_name", "session_id", "cwd", "tool_name", "tool_input", "tool_response", "tool_use_id", "prompt",
    "tool_calls", "timestamp", "conversation_id", "workspace_roots", "output", "input", "tool_info", "properties",
    "agent_action_name", "trajectory_id", "type", "error", "mcp_context",
]  # fmt: skip
EVENT_NAMES = ["PostToolUse", "PostToolBatch", "afterFileEdit", "AfterTool", "post_run_command", "tool.execute.after"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(EVENT_NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=10,
)


@given(
    payload=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8),
    platform=st.sampled_from(["claude-code", "codex", "cursor", "windsurf", "gemini-cli", "opencode", "other"]),
)
def test_no_payload_of_any_types_makes_an_adapter_fail(payload: dict[str, Any], platform: str) -> None:
    adapted = adapt(payload, platform)

    assert adapted.events or adapted.skipped
    for event in adapted.events:
        assert phase_of(event.event_type, event.payload) == event.phase
