import pytest

from onlooker.domain.models import Event, ObservationKind
from providers.happened import asked, closed, note_of, notes_of, ran, read, stored, used, wrote


def test_reads_and_searches_are_folded_into_one_discovery() -> None:
    note = note_of(
        read("src/a.py", '"""Adds up."""\n\n\ndef total():\n    pass\n'),
        read("src/b.py"),
        used("Grep", {"pattern": "total"}, {"mode": "content", "content": "src/c.py:3:total()", "numFiles": 0}),
    )
    assert note.title == "Read src/a.py, src/b.py"
    assert note.files_read == ("src/a.py", "src/b.py")
    assert note.facts == ("src/a.py: Adds up. – total", "`total` is found in src/c.py")
    assert note.sources == (0, 1, 2)
    assert note.kind is ObservationKind.DISCOVERY


def test_a_single_read_with_nothing_else_is_kept() -> None:
    assert note_of(read("src/a.py")).title == "Read src/a.py"


def test_few_reads_beside_other_work_give_none() -> None:
    notes = notes_of(read("a.py"), read("b.py"), wrote("c.py", "def f():\n    pass\n"))
    assert [note.title for note in notes] == ["c.py: new file with f"]
    assert len(notes_of(read("a.py"), read("b.py"), read("d.py"), wrote("c.py", "def f():\n    pass\n"))) == 2


@pytest.mark.parametrize(
    "event",
    [
        used("Grep", {"pattern": "x"}, {"mode": "files_with_matches", "filenames": [], "numFiles": 0}),
        used("Glob", {"pattern": "*.x"}, {"filenames": [], "numFiles": 0}),
        used("LS", {"path": "/home/dev/app"}, "- a.py\n- b.py"),
        used("Read", {"file_path": "/home/dev/app/none"}, error="File does not exist."),
        used("TodoWrite", {"todos": [{"content": "x", "status": "pending"}]}, {"newTodos": []}),
        used("ToolSearch", {"query": "x"}, "found"),
        asked("Fix the total, please"),
        closed("All done, the total is right again and the tests pass."),
        stored("session_start", {"hook_event_name": "SessionStart", "source": "startup"}),
        stored("session_end", {"hook_event_name": "SessionEnd", "reason": "other"}),
        stored("tool_use", {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "make"}}),
    ],
)
def test_what_deserves_no_note_gives_none(event: Event) -> None:
    assert notes_of(event) == []


def test_lines_around_a_hit_name_the_same_file() -> None:
    output = "docs/a.md-27-above\ndocs/a.md:28:hit\ndocs/a.md-29-below"
    note = note_of(used("Grep", {"pattern": "hit"}, {"mode": "content", "content": output}))
    assert note.title == "`hit` is found in docs/a.md"


def test_a_subagent_is_told_by_its_first_sentences() -> None:
    response = {"status": "completed", "content": [{"type": "text", "text": "Rows are tuples. They come from parse."}]}
    note = note_of(used("Task", {"description": "Find uses of rows", "prompt": "…"}, response))
    assert note.title == "Find uses of rows"
    assert note.narrative == "Rows are tuples. They come from parse."


def test_an_mcp_tool_is_named_with_what_it_was_given_and_its_first_line() -> None:
    response = [{"type": "text", "text": "Bookings of 2026-03\nall: 148.63"}]
    note = note_of(used("mcp__bank__month_totals", {"month": "2026-03"}, response))
    assert note.title == "bank month_totals (2026-03): Bookings of 2026-03"
    assert note.narrative == "Bookings of 2026-03; all: 148.63"


def test_an_mcp_tool_that_failed_gives_its_error() -> None:
    note = note_of(used("mcp__bank__month_totals", {"month": "x"}, error="calling\nerror: not a month: x"))
    assert note.title == "bank month_totals (x): error: not a month: x"
    assert note.concepts == ("gotcha",)


def test_an_answer_of_the_person_is_a_decision() -> None:
    note = note_of(
        used("AskUserQuestion", {"questions": []}, 'User has answered your questions: "Which queue?"="Redis". Go on.')
    )
    assert note.kind is ObservationKind.DECISION
    assert note.title == "Which queue? Redis"


def test_the_double_of_an_event_is_not_told_again() -> None:
    use = {"tool_name": "Bash", "tool_input": {"command": "make"}, "tool_response": {"stdout": "built"}}
    notes = notes_of(stored("tool_use", use, key="same"), stored("tool_use", use, key="same"), ran("make all", "built"))
    assert [note.sources for note in notes] == [(0,), (2,)]
