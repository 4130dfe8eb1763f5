"""When an observation repeats another: in nearly the same words, and about the same things."""

from onlooker.domain.models import Draft, ObservationKind
from onlooker.domain.similarity import Said, repeats

CHANGE, BUGFIX = ObservationKind.CHANGE, ObservationKind.BUGFIX
KNOWN = Said("o1", CHANGE, "Retry with a growing pause in worker.py", ("It gives up after 5 attempts",))


def said_again(title: str, *facts: str, kind: ObservationKind = CHANGE, known: Said = KNOWN) -> bool:
    return repeats(Draft(kind, title, facts=facts), [known]) is known


def test_the_same_words_are_a_repetition() -> None:
    assert said_again("Retry with a growing pause in worker.py", "It gives up after 5 attempts")


def test_case_order_and_small_words_do_not_count() -> None:
    assert said_again("in worker.py: retry with growing pause", "gives up after the 5 attempts.")


def test_a_further_fact_makes_it_new() -> None:
    assert not said_again("Retry with a growing pause in worker.py", "It gives up after 5 attempts", "Jitter is added")


def test_fewer_facts_do_not() -> None:
    assert said_again("Retry with a growing pause in worker.py")


def test_another_name_or_number_or_path_makes_it_new() -> None:
    assert not said_again("Retry with a growing pause in sender.py", "It gives up after 5 attempts")
    assert not said_again("Retry with a growing pause in worker.py", "It gives up after 6 attempts")
    marked = Said("o2", CHANGE, "Ran command MARK-a-17", ())
    assert not said_again("Ran command MARK-a-18", known=marked)
    assert not said_again("Fixed getUser", known=Said("o3", CHANGE, "Fixed getGroup", ()))
    assert not said_again("修正合计", known=Said("o4", CHANGE, "修正税率", ()))


def test_another_type_is_another_observation() -> None:
    assert not said_again("Retry with a growing pause in worker.py", kind=BUGFIX)


def test_the_latest_of_several_is_found() -> None:
    later = Said("o9", CHANGE, KNOWN.title, ())
    assert repeats(Draft(CHANGE, KNOWN.title), [KNOWN, later]) is later
    assert repeats(Draft(CHANGE, ""), [Said("o5", CHANGE, "", ())]) is None
