"""What words of a note and of a question meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onlooker.storage.analyser import LONGEST_TERM, MOST_TERMS, analyse, analyse_query, date_terms


@pytest.mark.parametrize(
    "note, question",
    [
        ("Totals were rounded", "rounding total"),
        ("fix src/queue/worker.ts", "worker.ts"),
        ("fix src/queue/worker.ts", "src/queue/worker.ts"),
        ("call getUserName twice", "user name"),
        ("call getUserName twice", "getusername"),
        ("set max_retry_count", "retry count"),
        ("error E0308 mismatched", "E0308"),
        ("ran with --no-cache", "--no-cache"),
        ("moved to C++ and C#", "c++"),
        ("on .NET 8", ".net"),
        ("ubuntu 20.04 image", "20.04"),
        ("std::vector grows", "std::vector"),
        ("a multi-agent run", "multi-agent"),
        ("café opened", "cafe"),
        ("Straße gesperrt", "STRASSE"),
        ("キャッシュを削除", "キャッシュ"),
        ("修复数据库连接", "数据"),
        ("修复数据库连接", "库"),
        ("база данных упала", "базы данных"),
        ("\uff21\uff22\uff23 wide", "abc"),
    ],
)
def test_a_question_meets_the_note_that_means_the_same(note: str, question: str) -> None:
    asked = analyse_query(question)
    assert asked
    assert set(asked) & set(analyse(note))


@pytest.mark.parametrize("query", ["", " ", "the and of", "\"'*", "()", "--", "\x00", "\ud800"])
def test_a_query_without_a_searchable_word_has_no_terms(query: str) -> None:
    assert analyse_query(query) == []


def test_the_terms_of_a_question_are_distinct_and_bounded() -> None:
    assert analyse_query("cache cache caches") == ["cach"]
    assert len(analyse_query(" ".join(f"w{n}" for n in range(10_000)))) <= MOST_TERMS + 8


def test_a_date_is_found_by_its_words() -> None:
    assert set(analyse_query("May 2023")) <= set(date_terms(1_684_454_400_000))
    assert "2023-05-19" in date_terms(1_684_454_400_000)
    assert date_terms(10**30) == []


@given(st.text(max_size=200))
def test_no_text_breaks_the_analyser_and_no_term_could_break_an_index(text: str) -> None:
    for term in {*analyse(text), *analyse_query(text)}:
        assert 0 < len(term) <= LONGEST_TERM + 8
        assert not set(term) & set(" \t\n\"'\x00")
