"""What providers read of a stored event, for the response shapes seen in the field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onlooker.domain.adapters import ToolUse, closing_message_of, prompt_of, read_tool_use


def read(tool: str, response: Any = None, tool_input: Any = None, **more: Any) -> ToolUse:
    use = read_tool_use({"tool_name": tool, "tool_input": tool_input, "tool_response": response, **more})
    assert use is not None
    return use


@pytest.mark.parametrize(
    "response", ["On branch main", {"stdout": "On branch main"}, [{"type": "text", "text": "On branch main"}]]
)
def test_a_response_is_a_string_an_object_or_a_list(response: Any) -> None:
    assert read("Bash", response).output == "On branch main"


STUB = (
    "<persisted-output>\nOutput too large (58.3KB). Full output saved to: /home/dev/.claude/p/tool-results/t.txt\n\n"
    "Preview (first 2KB):\na.py:1: found\nb.py:2: found\n...\n</persisted-output>"
)


@pytest.mark.parametrize(
    "tool,response,output",
    [
        ("Grep", STUB, "a.py:1: found\nb.py:2: found"),
        ("mcp__x__y", [{"type": "text", "text": STUB}], "a.py:1: found\nb.py:2: found"),
        ("Bash", {"stdout": STUB, "stderr": "warned"}, "a.py:1: found\nb.py:2: found\nwarned"),
        ("Bash", "<persisted-output>\ncut", "cut"),
        ("Bash", f"echo {STUB[:18]}", f"echo {STUB[:18]}"),
        ("Bash", {"stdout": "a\n", "stderr": "b\n", "interrupted": False}, "a\nb"),
        ("Bash", {"stdout": "", "stderr": ""}, ""),
        ("Read", {"type": "text", "file": {"filePath": "/p/a", "content": "one\ntwo", "numLines": 2}}, "one\ntwo"),
        ("Glob", {"filenames": ["a.py", "b.py"], "numFiles": 2}, "a.py\nb.py"),
        ("Grep", {"mode": "content", "filenames": [], "content": "a.py:1: x"}, "a.py:1: x"),
        ("Task", {"status": "completed", "prompt": "p", "content": [{"type": "text", "text": "found"}]}, "found"),
        ("WebFetch", {"bytes": 1, "code": 200, "result": "page", "url": "u"}, "page"),
        ("ExitPlanMode", {"plan": "1. do", "isAgent": False}, "1. do"),
        ("AskUserQuestion", {"questions": [], "answers": {"Which?": "the second"}}, "answers: Which?: the second"),
        ("Edit", {"filePath": "/p/a", "oldString": "a", "newString": "b", "originalFile": "a"}, ""),
        ("Write", {"type": "create", "filePath": "/p/a", "content": "whole file"}, ""),
        ("TodoWrite", {"oldTodos": [], "newTodos": [{"content": "x"}]}, ""),
        ("mcp__x__y", [{"type": "image", "data": "AAAA"}, {"type": "text", "text": "t"}], "t"),
        ("run_shell_command", {"llmContent": "Output: ok", "returnDisplay": "ok"}, "Output: ok"),
        ("bash", {"title": "ls", "output": "a.py", "metadata": {"exit": 0}}, "a.py"),
        ("shell", '{"output": "a.py", "metadata": {"exit_code": 0}}', "a.py"),
        ("query", '[{"type": "text", "text": "1"}]', "1"),
        ("Bash", '{"name": "a package file", "content": 1}', '{"name": "a package file", "content": 1}'),
        ("X", None, ""),
        ("X", 7, "7"),
    ],
)
def test_the_output_is_what_a_person_would_read(tool: str, response: Any, output: str) -> None:
    assert read(tool, response).output == output


@pytest.mark.parametrize(
    "tool,response,more,exit_code,failed",
    [
        ("Bash", {"stdout": "x"}, {}, None, False),
        ("Bash", {"stdout": "x", "exit_code": 0}, {}, 0, False),
        ("Bash", {"stdout": "x", "exit_code": 2}, {}, 2, True),
        ("Bash", None, {"error": "Exit code 127\nsh: x: not found"}, 127, True),
        ("Bash", None, {"error": "Error: Exit code 1"}, 1, True),
        ("shell", '{"output": "no", "metadata": {"exit_code": 1}}', {}, 1, True),
        ("exec_command", "Wall time: 1 s\nProcess exited with code 3\nOutput:\n", {}, 3, True),
        ("bash", {"output": "no", "metadata": {"exit": 1}}, {}, 1, True),
        ("Read", {"file": {"content": "Exit code 9"}}, {}, None, False),
        ("WebFetch", {"code": 404, "result": "x"}, {}, None, False),
        ("mcp__x__y", {"isError": True, "content": []}, {}, None, True),
        ("read_file", {"llmContent": "", "error": {"message": "no such file"}}, {}, None, True),
        ("X", "y", {"hook_event_name": "PostToolUseFailure"}, None, True),
        ("X", {"success": True}, {}, None, False),
    ],
)
def test_failures_and_exit_codes(
    tool: str, response: Any, more: dict[str, Any], exit_code: int | None, *, failed: bool
) -> None:
    use = read(tool, response, **more)

    assert (use.exit_code, use.failed) == (exit_code, failed)


def test_an_error_is_a_text_or_an_object_with_a_message() -> None:
    assert read("X", None, error="no").error == "no"
    assert read("X", None, error={"message": "no"}).error == "no"
    assert read("X", {"error": {"message": "no", "type": "t"}}).error == "no"
    assert read("X", None, error=7).error is None


@pytest.mark.parametrize(
    "name,tool",
    [
        ("Bash", "Bash"),
        ("run_shell_command", "Bash"),
        ("Shell", "Bash"),
        ("read_file", "Read"),
        ("write_file", "Write"),
        ("apply_patch", "Edit"),
        ("MultiEdit", "MultiEdit"),
        ("search_file_content", "Grep"),
        ("mcp__github__search", "mcp__github__search"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_tools_of_one_kind_have_one_name(name: str, tool: str) -> None:
    assert read(name).tool == tool


@pytest.mark.parametrize(
    "tool_input,paths",
    [
        ({"file_path": "/p/a.py"}, ("/p/a.py",)),
        ({"filePath": "/p/a.py", "path": "/p"}, ("/p/a.py", "/p")),
        ({"paths": ["a", "b", 3]}, ("a", "b")),
        ({"file_path": 3}, ()),
        ({"input": "*** Begin Patch\n*** Update File: a.py\n@@\n*** Add File: b.py\n"}, ("a.py", "b.py")),
        ("*** Begin Patch\n*** Delete File: a.py\n", ("a.py",)),
        ('{"file_path": "/p/a.py"}', ("/p/a.py",)),
        (None, ()),
    ],
)
def test_paths_come_from_every_shape_of_input(tool_input: Any, paths: tuple[str, ...]) -> None:
    assert read("X", None, tool_input).paths == paths


def test_a_path_that_input_and_response_name_counts_once() -> None:
    assert read("Edit", {"filePath": "/p/a", "newString": "x"}, {"file_path": "/p/a"}).paths == ("/p/a",)


@pytest.mark.parametrize(
    "tool_input,command",
    [
        ({"command": "ls -l"}, "ls -l"),
        ({"cmd": "ls"}, "ls"),
        ({"command": ["bash", "-lc", "ls | wc"]}, "ls | wc"),
        ({"command": ["git", "status"]}, "git status"),
        ({"command": 3}, None),
        ({}, None),
    ],
)
def test_a_command_is_a_text_or_words(tool_input: Any, command: str | None) -> None:
    assert read("Bash", None, tool_input).command == command


@pytest.mark.parametrize(
    "payload",
    [
        {"toolName": "Bash", "toolInput": {"command": "ls"}, "toolResponse": "x"},
        {"tool": "bash", "input": {"command": "ls"}, "tool_output": "x"},
        {"tool_name": "Bash", "args": {"command": "ls"}, "tool_result": "x"},
    ],
)
def test_the_names_that_other_clients_use(payload: dict[str, Any]) -> None:
    use = read_tool_use(payload)

    assert use is not None
    assert (use.tool, use.command, use.output) == ("Bash", "ls", "x")


@pytest.mark.parametrize("payload", [{}, {"tool_name": ""}, {"tool_name": 7}, {"prompt": "x"}])
def test_a_payload_that_names_no_tool_is_no_tool_use(payload: dict[str, Any]) -> None:
    assert read_tool_use(payload) is None


def test_prompts_and_closing_messages() -> None:
    assert prompt_of({"prompt": "fix it"}) == "fix it"
    assert prompt_of({"prompt": [{"type": "text", "text": "a"}, {"type": "image"}, "b"]}) == "a\nb"
    assert prompt_of({"prompt": "  "}) is None
    assert prompt_of({"prompt": 7}) is None
    assert closing_message_of({"last_assistant_message": "Done."}) == "Done."
    assert closing_message_of({}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["stdout", "file", "content", "error", "metadata", "exit", "type", "filePath", "output"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(tool=st.sampled_from(["Bash", "Read", "Write", "X"]), tool_input=JSON, response=JSON, error=JSON)
def test_no_types_make_reading_fail(tool: str, tool_input: Any, response: Any, error: Any) -> None:
    use = read(tool, response, tool_input, error=error)

    assert isinstance(use.output, str)
    assert isinstance(use.failed, bool)
