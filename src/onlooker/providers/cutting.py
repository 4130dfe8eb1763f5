"""Cutting long texts in their middle: both ends stay, and so do the lines of the middle that tell of an error."""

import re

from onlooker.domain.tokens import estimate_tokens

CHARACTERS_A_TOKEN = 3
"""So many a token has by our estimate in code and in the output of programs; a first guess, then corrected."""

_TELLS_OF_ERROR = re.compile(
    r"error|exception|traceback|panic|fatal|fail(?:ed|ure|s)?\b|assert|denied|refused|cannot|not found|undefined|"
    r"segmentation|warning|timed? ?out|\bE\s{2,}",
    re.IGNORECASE,
)
_LONGEST_LINE = 300
_MARK_ROOM = 40


def cut_to_tokens(text: str, tokens: int) -> str:
    """The text cut until its estimate is not above `tokens`, which must be some 20 at least."""
    if len(text) * 2 <= tokens:  # no character is estimated at more than two
        return text
    length = tokens * CHARACTERS_A_TOKEN
    cut = text
    if len(text) > 4 * length or estimate_tokens(text) > tokens:
        while True:
            cut = cut_middle(text, length)
            estimate = estimate_tokens(cut)
            if estimate <= tokens or length <= 2 * _MARK_ROOM:
                break
            length = min(length * 9 // 10, length * tokens // estimate)
    return cut


def cut_middle(text: str, length: int) -> str:
    """The text in at most about `length` characters: two fifths from each end, one fifth for errors between them.

    A mark stands in each gap and says how many characters are missing there.
    """
    if len(text) <= length:
        return text
    room = max(length - _MARK_ROOM, _MARK_ROOM)
    share = room * 2 // 5
    head_end = _line_end(text, share)
    tail_start = _line_start(text, len(text) - share)
    errors = _error_lines(text, head_end, tail_start, room - 2 * share)
    kept = [text[:head_end]]
    position = head_end
    for start, end in (*errors, (tail_start, len(text))):
        if start > position:
            kept.append(_mark(start - position))
        kept.append(text[start:end])
        position = end
    return "".join(kept)


def _mark(missing: int) -> str:
    return f"\n[… {missing} characters cut …]\n"


def _line_end(text: str, position: int) -> int:
    """Where the line that holds the position begins, unless that gives up more than half of what comes before."""
    start = text.rfind("\n", 0, position)
    return start if start > position // 2 else position


def _line_start(text: str, position: int) -> int:
    end = text.find("\n", position)
    return end + 1 if 0 <= end < position + (len(text) - position) // 2 else position


def _error_lines(text: str, start: int, end: int, room: int) -> list[tuple[int, int]]:
    """Where the first lines that tell of an error stand between two positions, as many as there is room for."""
    found: list[tuple[int, int]] = []
    position = start
    while (match := _TELLS_OF_ERROR.search(text, position, end)) and room > _MARK_ROOM:
        begin = max(text.rfind("\n", start, match.start()) + 1, match.start() - _LONGEST_LINE // 2, position)
        stop = text.find("\n", match.end(), end)
        stop = min(stop if stop >= 0 else end, begin + min(room, _LONGEST_LINE), end)
        if stop <= begin:
            break
        found.append((begin, stop))
        room -= stop - begin + _MARK_ROOM
        position = stop
    return found
