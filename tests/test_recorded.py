"""The recorded session of `examples/`: made by its script, true to the formats, and of a program that works."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RECORDED = EXAMPLES / "recorded"

EVERY_HOOK = {"session_id", "transcript_path", "cwd", "hook_event_name"}
TOOL_USE = {"permission_mode", "tool_name", "tool_input", "tool_use_id"}
FIELDS = {
    "SessionStart": {"source", "model"},
    "SessionEnd": {"reason"},
    "UserPromptSubmit": {"permission_mode", "prompt"},
    "PostToolUse": TOOL_USE | {"tool_response", "duration_ms"},
    "PostToolUseFailure": TOOL_USE | {"error", "is_interrupt"},
    "PostToolBatch": {"permission_mode", "tool_calls"},
    "SubagentStart": {"agent_id", "agent_type"},
    "SubagentStop": {
        "permission_mode",
        "stop_hook_active",
        "agent_id",
        "agent_type",
        "agent_transcript_path",
        "last_assistant_message",
    },
    "Stop": {"permission_mode", "stop_hook_active", "last_assistant_message"},
    "PreCompact": {"permission_mode", "trigger", "custom_instructions"},
}
RESPONSE_FIELDS = {
    "Bash": {"stdout", "stderr", "interrupted", "isImage"},
    "Read": {"type", "file"},
    "Write": {"type", "filePath", "content", "structuredPatch", "originalFile"},
    "Edit": {"filePath", "oldString", "newString", "originalFile", "structuredPatch", "userModified", "replaceAll"},
    "Glob": {"filenames", "durationMs", "numFiles", "truncated"},
    "Grep": {"mode", "filenames", "numFiles"},
    "TodoWrite": {"oldTodos", "newTodos"},
    "Task": {"status", "prompt", "agentId", "content", "usage", "totalToolUseCount"},
}

Entry = dict[str, Any]


def read_entries(name: str) -> list[Entry]:
    return [json.loads(line) for line in (RECORDED / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def hooks() -> list[Entry]:
    return read_entries("hooks.jsonl")


@pytest.fixture(scope="module")
def lines() -> list[Entry]:
    return read_entries("transcript.jsonl")


@pytest.fixture(scope="module")
def uses(hooks: list[Entry]) -> list[Entry]:
    return [hook for hook in hooks if hook["hook_event_name"] in {"PostToolUse", "PostToolUseFailure"}]


def test_recording_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(EXAMPLES / "record.py"), "--into", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("recorded", "tally"):
        assert read_tree(tmp_path / name) == read_tree(EXAMPLES / name)


def read_tree(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_finished_program_passes_its_own_tests() -> None:
    command = [sys.executable, "-B", "-m", "unittest"]
    done = subprocess.run(command, cwd=EXAMPLES / "tally", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Ran 17 tests" in done.stderr


def test_there_are_enough_tool_uses_of_many_kinds_each_with_its_own_id(uses: list[Entry]) -> None:
    ids = [use["tool_use_id"] for use in uses]
    assert len(ids) >= 40
    assert len(set(ids)) == len(ids)
    assert {use["tool_name"] for use in uses} == {*RESPONSE_FIELDS, "mcp__bank__month_totals"}


def test_hook_payloads_have_the_fields_of_their_event(hooks: list[Entry]) -> None:
    assert {hook["hook_event_name"] for hook in hooks} == set(FIELDS)
    for hook in hooks:
        agent = {"agent_id", "agent_type"} if "agent_id" in hook else set()
        assert set(hook) == EVERY_HOOK | FIELDS[hook["hook_event_name"]] | agent


def test_tool_responses_have_the_shapes_of_their_tool(uses: list[Entry]) -> None:
    for use in uses:
        if use["hook_event_name"] == "PostToolUseFailure":
            assert isinstance(use["error"], str)
        elif use["tool_name"].startswith("mcp__"):
            assert [block["type"] for block in use["tool_response"]] == ["text"]
        else:
            assert set(use["tool_response"]) >= RESPONSE_FIELDS[use["tool_name"]]


def test_a_batch_repeats_earlier_tool_uses_with_their_responses_as_text(hooks: list[Entry]) -> None:
    batches = [(place, hook) for place, hook in enumerate(hooks) if hook["hook_event_name"] == "PostToolBatch"]
    assert batches
    for place, batch in batches:
        earlier = {hook.get("tool_use_id") for hook in hooks[:place]}
        assert len(batch["tool_calls"]) > 1
        for call in batch["tool_calls"]:
            assert call["tool_use_id"] in earlier
            assert isinstance(call["tool_response"], str)


def test_the_transcript_has_the_same_tool_uses_and_results_in_the_same_order(
    uses: list[Entry], lines: list[Entry]
) -> None:
    blocks = [block for line in lines for block in content_blocks(line)]
    used = [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert results == [use["tool_use_id"] for use in uses]
    assert sorted(tool_use_id for tool_use_id, _, _ in used) == sorted(results)
    told = {use["tool_use_id"]: (use["tool_name"], use["tool_input"]) for use in uses}
    assert {tool_use_id: (name, given) for tool_use_id, name, given in used} == told


def content_blocks(line: Entry) -> list[Entry]:
    if line["type"] not in {"user", "assistant"} or isinstance(line["message"]["content"], str):
        return []
    blocks: list[Entry] = line["message"]["content"]
    return blocks


def test_the_transcript_has_what_importers_stumble_over(lines: list[Entry]) -> None:
    kinds = [line["type"] for line in lines]
    assert {"user", "assistant", "progress", "system", "summary", "file-history-snapshot"} == set(kinds)
    message_ids = [line["message"]["id"] for line in lines if line["type"] == "assistant"]
    assert len(set(message_ids)) < len(message_ids), "messages are split over lines"
    sidechain = [line for line in lines if line.get("isSidechain")]
    assert {line["agentId"] for line in sidechain} == {sidechain[0]["agentId"]}
    assert any(line.get("isCompactSummary") for line in lines)
    repeated = [line for line in lines if line["type"] == "progress" and line["data"]["type"] == "agent_progress"]
    assert {line["data"]["message"]["message"]["id"] for line in repeated} < set(message_ids)


def test_parents_of_lines_are_earlier_lines(lines: list[Entry]) -> None:
    seen: set[str] = set()
    for line in lines:
        if "uuid" in line:
            assert line["parentUuid"] is None or line["parentUuid"] in seen
            assert line["uuid"] not in seen
            seen.add(line["uuid"])


def test_edits_say_what_they_did_to_the_file(uses: list[Entry]) -> None:
    edits = [use["tool_response"] for use in uses if use["tool_name"] == "Edit" and "tool_response" in use]
    assert edits
    for edit in edits:
        after = edit["originalFile"].replace(edit["oldString"], edit["newString"]).splitlines()
        for hunk in edit["structuredPatch"]:
            shown = [line[1:] for line in hunk["lines"] if line[0] in " +"]
            assert after[hunk["newStart"] - 1 :][: hunk["newLines"]] == shown


def test_the_work_has_failures_a_traceback_and_a_search_without_a_hit(uses: list[Entry]) -> None:
    failures = [use for use in uses if use["hook_event_name"] == "PostToolUseFailure"]
    assert {use["tool_name"] for use in failures} == {"Bash", "Edit"}
    errors = "\n".join(use["error"] for use in failures)
    assert "FAILED (failures=2)" in errors
    assert "Traceback (most recent call last)" in errors
    assert errors.count("Exit code 2") == 2
    assert any(use["tool_name"] == "Grep" and use["tool_response"]["numFiles"] == 0 for use in uses)


def test_only_the_first_prompt_holds_something_private(hooks: list[Entry]) -> None:
    with_secret = [hook for hook in hooks if "9042-EXAMPLE" in json.dumps(hook)]
    assert [hook["hook_event_name"] for hook in with_secret] == ["UserPromptSubmit"]
    assert "<private>login mk-4471, code 9042-EXAMPLE</private>" in with_secret[0]["prompt"]


@pytest.mark.parametrize("name", ["hooks.jsonl", "transcript.jsonl"])
def test_nothing_of_the_recording_machine_is_left(name: str) -> None:
    text = (RECORDED / name).read_text(encoding="utf-8")
    for trace in (str(EXAMPLES), sys.executable, "/tmp/", "lib/python"):  # noqa: S108 - looked for, not used
        assert trace not in text
