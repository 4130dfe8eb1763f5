import pytest

from onlooker.domain.tokens import estimate_tokens

# What cl100k or o200k, whichever counts more, make of each.
COUNTED = [
    ("", 0),
    ("The tests pass now.", 5),
    ("def parse_amount(text: str) -> Decimal:", 10),
    ("src/onlooker/storage/search_index.py", 8),
    ("HTTPConnectionPool(host='127.0.0.1', port=8080)", 18),
    ("🎉🚀🧪✨🔥🐛", 17),
    ("𠮷𡈽𠀋", 11),
    ("आज पार्सर में राउंडिंग ठीक की गई", 34),
    ("ఈ రోజు పార్సర్‌లో రౌండింగ్ సరిచేయబడింది", 69),
]


@pytest.mark.parametrize("text, tokens", COUNTED)
def test_the_estimate_is_rather_too_high_and_at_most_double(text: str, tokens: int) -> None:
    assert tokens <= estimate_tokens(text) <= 2 * tokens


def test_every_character_that_is_no_space_counts_in_any_script() -> None:
    assert estimate_tokens("順序は保たれる") >= 8
    assert estimate_tokens("порядок") >= 4
    assert estimate_tokens("🙂🙂") >= 2


def test_a_text_counts_about_as_much_as_its_parts() -> None:
    line = "Rounded half cents up in money.py\n"
    assert estimate_tokens(line * 50) == pytest.approx(50 * estimate_tokens(line), rel=0.1)
