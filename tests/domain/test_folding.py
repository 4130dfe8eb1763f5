"""Which events are not shown to a model: only what is known to be trivial."""

import json
from typing import Any

from onlooker.domain.folding import fold
from onlooker.domain.models import Event


def event(number: int, payload: Any, event_type: str = "tool_use") -> Event:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return Event(
        f"e{number}", "t", "p", "s", number, f"k{number}", None, "hook", "claude-code", None, event_type, None, None,
        text, "{}", 1, 1, 1,
    )  # fmt: skip


def use(tool: str, output: str = "out", **tool_input: str) -> dict[str, Any]:
    return {"tool_name": tool, "tool_input": tool_input, "tool_response": output}


def bash(command: str, **more: Any) -> dict[str, Any]:
    return {**use("Bash", command=command), **more}


def told(*payloads: Any) -> list[int]:
    return list(fold([event(n, payload) for n, payload in enumerate(payloads)]).told)


def test_listings_are_folded() -> None:
    listings = ["ls", "ls -la src", "pwd", "cd src && ls", "git status --short", "which python; pwd"]
    assert told(*map(bash, listings), use("LS", path="/a"), use("Glob", pattern="*.py")) == []


def test_a_command_that_does_more_than_list_is_told() -> None:
    commands = ["ls | wc -l > count", "ls && make", "git stash", "git", "cat a.py", "ls $(rm -r x)", "echo ls", ""]
    assert told(*map(bash, commands)) == list(range(len(commands)))


def test_a_listing_that_failed_is_told() -> None:
    failed = {"tool_name": "Bash", "tool_input": {"command": "ls /x"}, "error": "no such directory"}
    assert told(failed, {**failed, "hook_event_name": "PostToolUseFailure"}) == [0, 1]


def test_the_same_read_again_is_folded_and_points_to_the_first() -> None:
    again = use("Read", "text", file_path="a.py")
    folded = fold([event(0, again), event(1, use("Edit", file_path="b.py")), event(2, again)])
    assert folded.told == (0, 1)
    assert folded.repeats == {2: 0}


def test_a_read_that_finds_something_else_is_told() -> None:
    assert told(use("Read", "old", file_path="a.py"), use("Read", "new", file_path="a.py")) == [0, 1]


def test_the_beginning_of_a_tool_use_is_told_only_where_its_end_is_not() -> None:
    begun = {"tool_use_id": "t1", "hook_event_name": "PreToolUse", **use("Edit")}
    ended = {"tool_use_id": "t1", "hook_event_name": "PostToolUse", **use("Edit")}
    assert told(begun, ended) == [1]
    assert told(begun) == [0]


def test_what_only_begins_or_ends_is_folded_and_what_people_say_is_told() -> None:
    kinds = ["session_start", "user_prompt", "notification", "pre_compact", "turn_end", "session_end", "whatever"]
    folded = fold([event(n, {"prompt": "ls"}, kind) for n, kind in enumerate(kinds)])
    assert folded.told == (1, 4, 6)


def test_what_cannot_be_read_is_told() -> None:
    assert told("no json", "[1]", '"text"', "{}", '{"tool_name": 5}') == [0, 1, 2, 3, 4]
