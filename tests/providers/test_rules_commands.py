from typing import Any

import pytest

from onlooker.domain.models import ObservationKind
from providers.happened import edited, note_of, notes_of, ran, used

UNITTEST_FAILS = """FF.
======================================================================
FAIL: test_half_a_cent_goes_up (tests.test_money.MoneyTest)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/home/dev/app/tests/test_money.py", line 16, in test_half_a_cent_goes_up
    self.assertEqual(cents, "6.18")
AssertionError: '6.17' != '6.18'

----------------------------------------------------------------------
Ran 7 tests in 0.004s

FAILED (failures=1, errors=1)"""
DOCUMENT = "git commit -m \"$(cat <<'EOF'\nName it; once & for all\n\nmore\nEOF\n)\""
UNITTEST_PASSES = ".......\n-----\nRan 7 tests in 0.004s\n\nOK"
PYTEST_FAILS = """=================================== FAILURES ===================================
E       assert 1 == 2
=========================== short test summary info ============================
FAILED tests/test_a.py::test_adds - assert 1 == 2
========================= 1 failed, 3 passed in 0.12s =========================="""
JEST_FAILS = "  ● cart › adds up\n\nTests:       2 failed, 1 skipped, 9 passed, 12 total\nTime: 1.2 s"
GO_FAILS = "--- FAIL: TestTruncate (0.00s)\n--- PASS: TestOther (0.00s)\nFAIL\nFAIL\texample.com/app/text\t0.003s"
CARGO_FAILS = "test money::rounds ... FAILED\ntest result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured"


@pytest.mark.parametrize(
    "command, output, counts, failing",
    [
        ("python3 -m unittest", UNITTEST_FAILS, "2 of 7 tests failed", "test_half_a_cent_goes_up"),
        ("pytest -q", PYTEST_FAILS, "1 of 4 tests failed", "test_adds"),
        ("npm test", JEST_FAILS, "2 of 11 tests failed", "cart › adds up"),
        ("go test ./...", GO_FAILS, "1 of 2 tests failed", "TestTruncate"),
        ("cargo test", CARGO_FAILS, "1 of 5 tests failed", "money::rounds"),
    ],
)
def test_a_failing_test_run_gives_its_counts_and_the_tests_that_fail(
    command: str, output: str, counts: str, failing: str
) -> None:
    note = note_of(ran(command, error=f"Exit code 1\n{output}"))
    assert note.title.startswith(f"{command}: {counts}")
    assert f"Failing: {failing}" in note.facts
    assert note.kind is ObservationKind.DISCOVERY
    assert note.concepts == ("gotcha",)


@pytest.mark.parametrize(
    "command, output, counts",
    [
        ("python3 -m unittest", UNITTEST_PASSES, "7 tests pass"),
        ("pytest", "===== 12 passed, 1 warning in 3.4s =====", "12 tests pass"),
        ("npx vitest run", " Test Files  1 passed (1)\n      Tests  3 passed (3)", "3 tests pass"),
        ("npx mocha", "  5 passing (20ms)", "5 tests pass"),
        ("node --test", "# tests 2\n# pass 2\n# fail 0", "2 tests pass"),
        ("go test ./...", "ok  \texample.com/app\t0.2s\nok  \texample.com/b\t(cached)", "2 tests pass"),
        ("cargo test", "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured", "1 test passes"),
    ],
)
def test_a_passing_test_run_gives_its_counts(command: str, output: str, counts: str) -> None:
    note = note_of(ran(command, output))
    assert note.title == f"{command}: {counts}"
    assert note.kind is ObservationKind.DISCOVERY
    assert note.concepts == ()


def test_a_failing_test_run_is_seen_through_a_filter_that_exits_with_0() -> None:
    note = note_of(ran("python3 -m unittest 2>&1 | tail -n 30", UNITTEST_FAILS))
    assert note.title == "python3 -m unittest: 2 of 7 tests failed: AssertionError: '6.17' != '6.18'"


def test_tests_that_pass_after_an_edit_are_a_fix_of_what_failed() -> None:
    notes = notes_of(
        ran("python3 -m unittest", error=f"Exit code 1\n{UNITTEST_FAILS}"),
        edited("money.py", "x = 1\n", "x = 2\n"),
        ran("cd /home/dev/app && python3 -m unittest 2>&1 | tail -3", UNITTEST_PASSES),
    )
    fix = notes[1] if notes[1].kind is ObservationKind.BUGFIX else notes[0]
    assert fix.title == "test_half_a_cent_goes_up fixed: 7 tests pass"
    assert fix.sources == (0, 2)
    assert fix.files_modified == ("money.py",)
    assert "Error before: AssertionError: '6.17' != '6.18'" in fix.facts


def test_tests_that_pass_with_no_edit_in_between_fixed_nothing() -> None:
    notes = notes_of(
        edited("money.py", "x = 1\n", "x = 2\n"),
        ran("python3 -m unittest", error=f"Exit code 1\n{UNITTEST_FAILS}"),
        ran("python3 -m unittest", UNITTEST_PASSES),
    )
    assert ObservationKind.BUGFIX not in {note.kind for note in notes}


def test_tests_broken_and_mended_on_the_way_are_a_change() -> None:
    notes = notes_of(
        ran("pytest", "===== 4 passed in 1s ====="),
        ran("pytest", error=f"Exit code 1\n{PYTEST_FAILS}"),
        edited("a.py", "x = 1\n", "x = 2\n"),
        ran("pytest", "===== 5 passed in 1s ====="),
    )
    assert ObservationKind.BUGFIX not in {note.kind for note in notes}
    assert "test_adds fixed: 5 tests pass" in [note.title for note in notes]


def test_another_command_that_passes_fixed_nothing() -> None:
    notes = notes_of(
        ran("pytest tests/test_a.py", error=f"Exit code 1\n{PYTEST_FAILS}"),
        edited("a.py", "x = 1\n", "x = 2\n"),
        ran("pytest tests/test_b.py", "===== 5 passed in 1s ====="),
    )
    assert ObservationKind.BUGFIX not in {note.kind for note in notes}


def test_a_command_that_ends_as_before_is_told_once() -> None:
    note = note_of(ran("make lint", "0 issues"), ran("make lint", "0 issues"))
    assert note.sources == (0, 1)
    assert "Ran 2 times with the same result" in note.facts


@pytest.mark.parametrize("response", [None, "built", {"stdout": "built"}, {"output": "built"}])
def test_how_a_command_ended_is_said_only_where_the_agent_told_it(response: Any) -> None:
    """Windsurf tells no output, Cursor no exit code; both tell of a command that failed in the same way."""
    assert "Exit" not in note_of(used("Bash", {"command": "make"}, response)).content
    assert "Exit 0." in note_of(ran("make", "built")).content
    assert "Exit 3." in note_of(used("Bash", {"command": "make"}, {"stdout": "built", "exit_code": 3})).content


def test_a_failing_command_gives_its_exit_and_the_exception_of_its_traceback() -> None:
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "/home/dev/app/cli.py", line 5, in <module>\n    main()\n'
        "decimal.InvalidOperation: [<class 'decimal.ConversionSyntax'>]"
    )
    note = note_of(ran("python3 -m app", said="Run the app", error=f"Exit code 1\n{traceback}"))
    assert note.title == "python3 -m app: decimal.InvalidOperation: [<class 'decimal.ConversionSyntax'>]"
    assert note.narrative == "Run the app. Exit 1."


def test_a_failing_command_gives_its_first_error_line() -> None:
    output = "compiling\nsrc/main.c:3:5: error: expected ';'\nsrc/main.c:9:1: error: stray"
    note = note_of(ran("make", error=f"Exit code 2\n{output}"))
    assert note.title == "make: src/main.c:3:5: error: expected ';'"


def test_the_working_folder_is_left_out_of_errors() -> None:
    note = note_of(ran("make", error="Exit code 2\n/home/dev/app/main.c:3: error: stray"))
    assert note.title == "make: main.c:3: error: stray"


@pytest.mark.parametrize(
    "command, subject, kind",
    [
        ("git add . && git commit -q -m 'Round half up'", "Round half up", ObservationKind.CHANGE),
        ('git commit -am "fix: stop the leak\n\nbody"', "fix: stop the leak", ObservationKind.BUGFIX),
        ("git commit -m 'Add --since and --json'", "Add --since and --json", ObservationKind.FEATURE),
        ("git commit -m 'refactor(cart): one loop'", "refactor(cart): one loop", ObservationKind.REFACTOR),
        (DOCUMENT, "Name it; once & for all", ObservationKind.CHANGE),
    ],
)  # fmt: skip
def test_a_commit_is_known_by_its_subject(command: str, subject: str, kind: ObservationKind) -> None:
    note = note_of(ran(command, "[main 1a2b3c] x\n 2 files changed, 3 insertions(+)"))
    assert note.title == f"Commit: {subject}"
    assert note.kind is kind


def test_a_commit_that_failed_is_no_commit() -> None:
    note = note_of(ran("git commit -m 'Round half up'", error="Exit code 1\nerror: hook refused"))
    assert note.kind is ObservationKind.DISCOVERY
    assert note.title == "git commit -m 'Round half up': error: hook refused"


@pytest.mark.parametrize(
    "command",
    [
        "ls -la", "pwd", "cat README.md", "cd /tmp && ls | head -3", "git status --short", "git log --oneline",
        "git diff | head", "grep -rn float src", "echo done > /dev/null", "sed -n 1,20p a.py", "sleep 1; true",
        "mkdir -p a/b",
    ],
)  # fmt: skip
def test_looking_around_gives_none(command: str) -> None:
    assert notes_of(ran(command, "some\noutput")) == []


def test_a_search_without_a_hit_gives_none() -> None:
    assert notes_of(ran("grep -rn nothing src", error="Exit code 1")) == []


@pytest.mark.parametrize(
    "command", ["chmod +x run.sh", "cat > notes.txt <<'EOF'\nhello\nEOF", "sed -i s/a/b/ a.py", "git push"]
)
def test_what_changes_something_is_no_looking_around(command: str) -> None:
    assert len(notes_of(ran(command, "ok"))) == 1


def test_quotes_hide_separators_and_redirections() -> None:
    note = note_of(ran("python3 -c \"print('2026-3-9' >= '2026-03-15'); print(1 | 2)\"", "True\n3"))
    assert note.title == "python3 -c \"print('2026-3-9' >= '2026-03-15'); print(1 | 2)\": 3"


def test_a_long_command_is_known_by_what_the_agent_said_of_it() -> None:
    note = note_of(ran(f"python3 scripts/measure.py {'--size 10 ' * 12}", "total 12", said="Measure all sizes"))
    assert note.title == "Measure all sizes: total 12"
