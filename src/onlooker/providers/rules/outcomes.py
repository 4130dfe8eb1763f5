"""What the output of a command comes down to: how its tests went, its first error, else its last word."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onlooker.providers.rules.text import clip, named

_LONGEST_LINE = 1_000


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """The counts of a test run as its runner printed them. `failing` names tests, where it named them."""

    passed: int
    failed: int
    skipped: int = 0
    failing: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """`2 of 7 tests failed`, `7 tests pass`."""
        if self.failed:
            total = self.passed + self.failed
            return f"{self.failed} of {total} tests failed" if total > self.failed else f"{_tests(self.failed)} failed"
        return f"{_tests(self.passed)} pass" if self.passed != 1 else "1 test passes"


def read_test_run(lines: Sequence[str]) -> SuiteResult | None:
    """The result of a test run in a command's output; None where no runner that is known reports one."""
    for reader in _READERS:
        if run := reader(lines):
            return run
    return None


def first_error(lines: Sequence[str]) -> str:
    """The line that says what went wrong: an exception's last line, else the first that speaks of an error."""
    return exception_in(lines) or next((line.strip() for line in lines if _is_error(line)), "")


def exception_in(lines: Sequence[str]) -> str:
    """The line that names the exception of a traceback, or of a short form that has only that line; else empty."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith("Traceback (most recent call last)"):
            depth = len(line) - len(line.lstrip())
            for later in lines[i + 1 :]:
                if later.strip() and len(later) - len(later.lstrip()) <= depth:
                    return later.strip()
    return next((line.strip() for line in lines if len(line) < _LONGEST_LINE and _EXCEPTION.match(line)), "")


def last_word(lines: Sequence[str]) -> str:
    """The last line with words or figures in it that is no echo of a script."""
    return next((line.strip() for line in reversed(lines) if _is_telling(line)), "")


def verdict_in(lines: Sequence[str]) -> str:
    """The last line that says how it went, else the last word."""
    said = (line.strip() for line in reversed(lines) if _is_telling(line) and _VERDICT.search(line[:_LONGEST_LINE]))
    return next(said, "") or last_word(lines)


def _is_telling(line: str) -> bool:
    return line[:2] != "> " and any(c.isalnum() for c in line[:_LONGEST_LINE])


_EXCEPTION = re.compile(
    r"(?:E\s{1,6}|Uncaught )?(?:[A-Za-z_]\w*\.){0,5}[A-Z]\w{0,60}(?:Error|Exception|Fault|Panic)\b(?:: |$| \[)"
)
_ERROR = re.compile(
    r"\berror\b|\bfatal\b|\bpanic(?:ked)?\b|\bexception\b|\bfailed\b|\bfailure\b|\bcannot\b|\bcan't\b|\bnot found\b"
    r"|\bno such\b|\bdenied\b|\bundefined\b|\brefused\b|\binvalid\b|\bunknown\b|\babort(?:ed|ing)?\b|\btimed out\b"
    r"|\bERR!|\bE\d{3,4}\b|\bconflict\b|\brejected\b",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"\b(?:passed|succe(?:ss|eded|ssfully)|compiled|finished|found \d+|checked \d+|no (?:issues|errors)"
    r"|\d+ (?:issues|errors?)|added \d+|installed|built|total|up to date)\b",
    re.IGNORECASE,
)
_NO_ERROR = re.compile(r"\b(?:0|no) (?:errors?|failures?|failed)\b|^\s*(?:at|File) ", re.IGNORECASE)


def _is_error(line: str) -> bool:
    part = line[:_LONGEST_LINE]
    return _ERROR.search(part) is not None and _NO_ERROR.search(part) is None


def _tests(number: int) -> str:
    return "1 test" if number == 1 else f"{number} tests"


_UNITTEST_RAN = re.compile(r"Ran (\d+) tests? in ")
_UNITTEST_END = re.compile(r"(OK|FAILED)(?: \((.+)\))?$")
_UNITTEST_FAILING = re.compile(r"(?:FAIL|ERROR): (\w+)")
_COUNT = re.compile(r"(\w+(?: \w+)?)=(\d+)")


def _unittest(lines: Sequence[str]) -> SuiteResult | None:
    ran = next((int(found[1]) for line in lines if (found := _UNITTEST_RAN.match(line))), None)
    ends = [found for line in lines if (found := _UNITTEST_END.match(line))]
    if ran is None and not ends:
        return None
    if not ends or ran is None:
        return None
    counts = {name: int(number) for name, number in _COUNT.findall(ends[-1][2] or "")}
    failed = sum(counts.get(name, 0) for name in ("failures", "errors", "unexpected successes"))
    skipped = counts.get("skipped", 0)
    failing = tuple(found[1] for line in lines if (found := _UNITTEST_FAILING.match(line)))
    return SuiteResult(max(ran - failed - skipped, 0), failed, skipped, failing)


_PYTEST_END = re.compile(
    r"=*\s*((?:\d+ (?:failed|passed|errors?|skipped|xfailed|xpassed|deselected|warnings?|rerun)(?:, )?)+)"
    r" in [\d.]+\s?m?s"
)
_PYTEST_FAILING = re.compile(r"(?:FAILED|ERROR) (\S+)")
_NUMBERED = re.compile(r"(\d+) (\w+)")


def _pytest(lines: Sequence[str]) -> SuiteResult | None:
    end = next((found for line in reversed(lines) if (found := _PYTEST_END.match(line[:_LONGEST_LINE]))), None)
    if end is None:
        return None
    counts = {noun.rstrip("s"): int(number) for number, noun in _NUMBERED.findall(end[1])}
    failing = tuple(found[1].rpartition("::")[2] for line in lines if (found := _PYTEST_FAILING.match(line)))
    return SuiteResult(
        counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0), counts.get("skipped", 0), failing
    )


_JS_END = re.compile(r"\s*Tests:?\s+((?:\d+ \w+(?:,| \||\s)*)+)")
_JS_FAILING = re.compile(r"\s*(?:●|✕|×|✗|FAIL)\s+(.+?)(?:\s+\(?\d+\s?ms\)?)?$")
_MOCHA = re.compile(r"\s*(\d+) (passing|failing|pending)\b")
_TAP = re.compile(r"(?:#|ℹ) (pass|fail|skipped) (\d+)$")


def _javascript(lines: Sequence[str]) -> SuiteResult | None:
    end = next((found for line in lines if (found := _JS_END.match(line[:_LONGEST_LINE]))), None)
    if end is not None:
        counts = {noun: int(number) for number, noun in _NUMBERED.findall(end[1])}
    else:
        counts = {found[2]: int(found[1]) for line in lines if (found := _MOCHA.match(line[:_LONGEST_LINE]))}
        counts |= {found[1]: int(found[2]) for line in lines if (found := _TAP.match(line[:_LONGEST_LINE]))}
    passed = max(counts.get(name, 0) for name in ("passed", "passing", "pass"))
    failed = max(counts.get(name, 0) for name in ("failed", "failing", "fail"))
    if not (passed or failed):
        return None
    failing = [found[1] for line in lines if (found := _JS_FAILING.match(line[:_LONGEST_LINE]))]
    skipped = max(counts.get(name, 0) for name in ("skipped", "pending"))
    return SuiteResult(passed, failed, skipped, tuple(failing) if failed else ())


_GO = re.compile(r"\s*--- (PASS|FAIL|SKIP): (\S+)")
_GO_PACKAGE = re.compile(r"(ok|FAIL)\s+(\S+)\s+(?:\(cached\)|[\d.]+s)")
_GO_BUILD = re.compile(r"FAIL\s+(\S+) \[(?:build|setup) failed\]")


def _go(lines: Sequence[str]) -> SuiteResult | None:
    packages = [found for line in lines if (found := _GO_PACKAGE.match(line))]
    broken = [found[1] for line in lines if (found := _GO_BUILD.match(line))]
    if not packages and not broken:
        return None
    tests = [found for line in lines if (found := _GO.match(line))]
    failing = tuple(found[2] for found in tests if found[1] == "FAIL") + tuple(broken)
    failing = failing or tuple(found[2] for found in packages if found[1] == "FAIL")
    passed = sum(found[1] == "PASS" for found in tests) or sum(found[1] == "ok" for found in packages)
    return SuiteResult(passed, len(failing), sum(found[1] == "SKIP" for found in tests), failing)


_CARGO = re.compile(r"test result: (?:ok|FAILED)\. (\d+) passed; (\d+) failed; (\d+) ignored")
_CARGO_FAILING = re.compile(r"test (\S+) \.\.\. FAILED")


def _cargo(lines: Sequence[str]) -> SuiteResult | None:
    ends = [found for line in lines if (found := _CARGO.match(line))]
    if not ends:
        return None
    passed, failed, skipped = (sum(int(found[i]) for found in ends) for i in (1, 2, 3))
    return SuiteResult(
        passed, failed, skipped, tuple(found[1] for line in lines if (found := _CARGO_FAILING.match(line)))
    )


_READERS: tuple[Callable[[Sequence[str]], SuiteResult | None], ...] = (_unittest, _pytest, _cargo, _javascript, _go)


def failing_names(run: SuiteResult) -> str:
    """`Failing: a, b and 3 more`, or empty."""
    return f"Failing: {named((clip(name, 60) for name in run.failing), 3)}" if run.failing else ""
