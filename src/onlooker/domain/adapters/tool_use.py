"""Reading a stored event's payload, whoever sent it: what the tool was given, what it gave back, whether it failed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onlooker.domain.adapters.shape import blocks_text, unpacked

TOOL_NAMES: Mapping[str, str] = {
    "shell": "Bash",
    "bash": "Bash",
    "run_shell_command": "Bash",
    "run_terminal_cmd": "Bash",
    "run_command": "Bash",
    "exec_command": "Bash",
    "local_shell": "Bash",
    "powershell": "Bash",
    "terminal": "Bash",
    "read": "Read",
    "read_file": "Read",
    "read_many_files": "Read",
    "view": "Read",
    "write": "Write",
    "write_file": "Write",
    "create_file": "Write",
    "edit": "Edit",
    "edit_file": "Edit",
    "search_replace": "Edit",
    "str_replace": "Edit",
    "replace": "Edit",
    "multiedit": "MultiEdit",
    "apply_patch": "Edit",
    "patch": "Edit",
    "grep": "Grep",
    "grep_search": "Grep",
    "search_file_content": "Grep",
    "codebase_search": "Grep",
    "glob": "Glob",
    "find_files": "Glob",
    "list": "LS",
    "ls": "LS",
    "list_dir": "LS",
    "list_directory": "LS",
    "web_fetch": "WebFetch",
    "webfetch": "WebFetch",
    "web_search": "WebSearch",
    "websearch": "WebSearch",
    "google_web_search": "WebSearch",
    "todowrite": "TodoWrite",
    "write_todos": "TodoWrite",
    "todo_write": "TodoWrite",
    "update_plan": "TodoWrite",
    "task": "Task",
    "agent": "Task",
}
"""What the agents call their tools, in lower case → Claude Code's name. Tools of no such kind keep their own."""

_RESPONSES = ("tool_response", "toolResponse", "tool_output", "toolOutput", "tool_result", "result_json")
_PATHS = ("file_path", "filePath", "path", "notebook_path", "absolute_path", "filename", "file")
_PATH_LISTS = ("paths", "file_paths", "files")
_EXIT_CODES = ("exit_code", "exitCode", "returnCode", "exit")
_TEXTS = ("content", "output", "llmContent", "returnDisplay", "text", "result", "message", "plan", "error")
"""Where the text of a response stands, by tool and agent; the first that has some counts."""

_PACKED = {"stdout", "output", "llmContent", "isError"}
"""A JSON text with one of these is a packed response; so is a list of blocks."""

_EXIT_LINE = re.compile(r"(?:^|\n)(?:Error: )?(?:Exit [Cc]ode:?|Process exited with code) (-?\d{1,10})\b")
"""How agents put an exit code into text; it stands at the start, or after a few lines about the call."""

_KEPT_ELSEWHERE = ("<persisted-output>", "</persisted-output>")
_ABOUT_IT = ("Output too large", "Preview (first")
"""How the lines begin that the client puts before what it shows of such an output."""

_PATCHED = re.compile(r"^\*\*\* (?:Add|Update|Delete) File: (.+)$", re.MULTILINE)
_HEAD = 400
_MAX_LEAVES = 200


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One use of a tool.

    `tool` is Claude Code's name for tools of the same kind, else the agent's own. `output` is what a person
    would read of the response: a command's two streams, a file's text, the text blocks of a list; empty for
    an edit, whose response only repeats its input. `response` is the response as it was stored, and `error`
    what a failed use gave in its place.
    """

    tool: str
    input: Mapping[str, Any]
    output: str
    error: str | None
    failed: bool
    exit_code: int | None
    paths: tuple[str, ...]
    response: Any

    @property
    def command(self) -> str | None:
        """The command line of a shell tool; a list of words is put together, `bash -lc` before it taken off."""
        for name in ("command", "cmd", "command_line"):
            value = self.input.get(name)
            if isinstance(value, str) and value:
                return value
            if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
                shell = len(value) == 3 and value[1] in {"-c", "-lc"}
                return value[2] if shell else " ".join(value)
        return None


def read_tool_use(payload: Mapping[str, Any]) -> ToolUse | None:
    """The tool use in a payload; None when it names no tool. Never raises, whatever the types."""
    name = next((payload[key] for key in ("tool_name", "toolName", "tool") if _is_text(payload.get(key))), None)
    if name is None:
        return None
    tool = TOOL_NAMES.get(name.lower(), name)
    given = next((payload[key] for key in ("tool_input", "toolInput", "input", "args") if key in payload), None)
    tool_input = _as_input(unpacked(given))
    response = _unwrapped(next((payload[key] for key in _RESPONSES if payload.get(key) is not None), None))
    output = "" if _repeats_input(tool, response) else _text(response)
    error = _message(payload.get("error")) or (_message(response.get("error")) if _is_object(response) else None)
    exit_code = _exit_code(tool, response, error or output)
    failed = (
        error is not None
        or payload.get("hook_event_name") == "PostToolUseFailure"
        or _says_failed(response)
        or exit_code not in {None, 0}
    )
    return ToolUse(
        tool=tool,
        input=tool_input,
        output=output,
        error=error,
        failed=failed,
        exit_code=exit_code,
        paths=tuple(dict.fromkeys(_paths(tool_input, response))),
        response=response,
    )


def prompt_of(payload: Mapping[str, Any]) -> str | None:
    """What a person asked; None where there is nothing of it (an empty text, or all of it was private)."""
    for name in ("prompt", "user_prompt", "content", "text"):
        text = blocks_text(payload.get(name))
        if text.strip():
            return text
    return None


def closing_message_of(payload: Mapping[str, Any]) -> str | None:
    """What the agent said at the end of a turn; None where the event has no text."""
    for name in ("last_assistant_message", "lastAssistantMessage", "prompt_response", "text"):
        text = blocks_text(payload.get(name))
        if text.strip():
            return text
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _as_input(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    return {} if value is None else {"input": value}


def _unwrapped(response: Any) -> Any:
    """The response inside a string, where the agent packed it; a text that only happens to be JSON stays text."""
    inside = unpacked(response) if isinstance(response, str) else None
    if isinstance(inside, Mapping):
        return inside if inside.keys() & _PACKED else response
    if isinstance(inside, list):
        return inside if inside and all(isinstance(item, Mapping) and "type" in item for item in inside) else response
    return response


def _repeats_input(tool: str, response: Any) -> bool:
    """Whether a response holds only what the input said already: the new text of a file, the new list of to-dos."""
    return isinstance(response, Mapping) and (
        "newString" in response or "newTodos" in response or (tool == "Write" and "content" in response)
    )


def _text(value: Any, depth: int = 0) -> str:
    """What a person would read of a response."""
    if isinstance(value, str):
        return _shown(value)
    if depth > 4:
        return ""
    if isinstance(value, Mapping):
        return _object_text(value, depth)
    if isinstance(value, list):
        return "\n".join(text for item in value[:_MAX_LEAVES] if (text := _text(item, depth + 1)))
    return "" if value is None else str(value)


def _shown(text: str) -> str:
    """Of an output that the client keeps in a file, the beginning that stands in its place; any other as it is."""
    head = text.lstrip()
    if not head.startswith(_KEPT_ELSEWHERE[0]):
        return text
    inside, _, after = head.removeprefix(_KEPT_ELSEWHERE[0]).partition(_KEPT_ELSEWHERE[1])
    lines = [line for line in inside.strip().splitlines() if not line.startswith(_ABOUT_IT)]
    return "\n".join(lines[:-1] if lines[-1:] == ["..."] else lines).strip() + after


def _object_text(value: Mapping[str, Any], depth: int) -> str:
    if value.get("type") in ("image", "tool_reference"):
        return ""
    streams = [_shown(text) for key in ("stdout", "stderr") if isinstance(text := value.get(key), str)]
    if streams:
        return "\n".join(text.rstrip("\n") for text in streams if text.strip())
    if isinstance(value.get("file"), Mapping):
        return _text(value["file"].get("content"), depth + 1)
    for name in _TEXTS:
        text = _text(value.get(name), depth + 1)
        if text:
            return text
    if isinstance(value.get("filenames"), list):
        return _text(value["filenames"], depth + 1)
    return "\n".join(_leaves(value, depth))


def _leaves(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    """A response of no known shape, a line a field: it may be what the next search looks for."""
    for name in list(value)[:_MAX_LEAVES]:
        text = _text(value[name], depth + 1)
        if text:
            yield f"{name}: {text}"


def _message(error: Any) -> str | None:
    error = unpacked(error)
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("type")
    return error if _is_text(error) else None


def _exit_code(tool: str, response: Any, text: str) -> int | None:
    places: Sequence[Any] = (response, response.get("metadata")) if isinstance(response, Mapping) else ()
    for place in places:
        if isinstance(place, Mapping):
            for name in _EXIT_CODES:
                if isinstance(place.get(name), int) and not isinstance(place[name], bool):
                    return int(place[name])
    if tool == "Bash":
        found = _EXIT_LINE.search(text[:_HEAD])
        if found:
            return int(found[1])
    return None


def _says_failed(response: Any) -> bool:
    return isinstance(response, Mapping) and (
        response.get("is_error") is True
        or response.get("isError") is True
        or response.get("success") is False
        or response.get("status") in ("error", "failed")
    )


def _paths(tool_input: Mapping[str, Any], response: Any) -> Iterator[str]:
    for name in _PATHS:
        if _is_text(tool_input.get(name)):
            yield tool_input[name]
    for name in _PATH_LISTS:
        if isinstance(tool_input.get(name), list):
            yield from (path for path in tool_input[name] if _is_text(path))
    for value in tool_input.values():
        if isinstance(value, str) and value.lstrip().startswith("*** Begin Patch"):
            yield from (path.strip() for path in _PATCHED.findall(value))
    if isinstance(response, Mapping) and _is_text(response.get("filePath")):
        yield response["filePath"]
