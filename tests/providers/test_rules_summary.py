from onlooker.domain.jobs import JobKind
from onlooker.domain.models import ObservationKind
from onlooker.providers.rules import RulesProvider
from providers.happened import answer_of, asked, closed, edited, ran, read, summary_of, used


def test_a_turn_is_summed_up_by_request_work_and_closing_message() -> None:
    note = summary_of(
        asked("March is one cent off. Find out why and fix it."),
        read("report.py"),
        edited("money.py", "x = 1\n", "x = 2\n"),
        ran("pytest", "===== 7 passed in 1s ====="),
        ran("git commit -am 'Round half up'", "1 file changed"),
        closed("March is right now. It was off because shares were floats. You should also check April."),
    )
    assert note.kind is ObservationKind.SUMMARY
    assert note.title == "March is one cent off."
    assert note.narrative.startswith("March is right now. It was off because shares were floats.")
    assert note.facts == (
        "request: March is one cent off. Find out why and fix it.",
        "investigated: report.py",
        "learned: It was off because shares were floats.",
        "completed: committed “Round half up”; last test run: 7 tests pass; modified money.py",
        "next_steps: You should also check April.",
    )
    assert note.files_read == ("report.py",)
    assert note.files_modified == ("money.py",)
    assert note.sources == (0, 1, 2, 3, 4, 5)


def test_open_to_dos_are_the_next_steps() -> None:
    todos = [{"content": "Write tests", "status": "completed"}, {"content": "Release", "status": "pending"}]
    note = summary_of(
        asked("Go on"), used("TodoWrite", {"todos": todos}, {}), edited("a.py", "x = 1", "x = 2"), closed("Half done.")
    )
    assert "next_steps: Release" in note.facts


def test_a_prompt_that_begins_with_a_nod_is_titled_by_what_follows() -> None:
    assert summary_of(asked("Good. Write the changelog."), edited("a.md", "x", "y")).title == "Write the changelog."


def test_a_slash_command_is_titled_without_its_tags() -> None:
    prompt = "<command-name>/review</command-name> <command-args>the last commit</command-args>"
    assert summary_of(asked(prompt), edited("a.md", "x", "y")).title == "/review the last commit"


def test_an_answer_without_work_is_summed_up_too() -> None:
    note = summary_of(asked("What is a lane?"), closed("A lane is a named queue. It has one claim at most."))
    assert note.title == "What is a lane?"
    assert note.narrative == "A lane is a named queue. It has one claim at most."


def test_a_turn_with_nothing_in_it_has_no_summary() -> None:
    answer = answer_of(RulesProvider(), [asked("Thanks!"), closed("You are welcome.")], JobKind.SUMMARY)
    assert answer.drafts == ()
    assert answer.skip_reason
