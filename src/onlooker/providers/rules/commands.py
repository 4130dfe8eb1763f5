"""What shell commands did, how they ended, and the line of their output that decides."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onlooker.domain.adapters import ToolUse
from onlooker.domain.models import Draft, ObservationKind
from onlooker.providers.rules.outcomes import (
    SuiteResult,
    exception_in,
    failing_names,
    first_error,
    last_word,
    read_test_run,
    verdict_in,
)
from onlooker.providers.rules.step import Step, indexes
from onlooker.providers.rules.text import (
    NARRATIVE_LENGTH,
    TITLE_LENGTH,
    clip,
    facts,
    lines_of,
    named,
)

_LONGEST_COMMAND = 4_000

_PART = re.compile(r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|\\.|[^\"'\\;&|\n]|[\"'\\]|(?<=[<>])&|&(?=>))+")
"""A piece of a command line between `;`, `&&`, `||`, `|` and line ends that stand outside quotes."""

_ASSIGNED = re.compile(r"^(?:\w+=\S*\s+)+")
_WRAPPER = re.compile(r"^(?:sudo|time|nohup|exec|command|env|timeout\s+\S+|xargs(?:\s+-\S+)*)\s+")
_HEREDOC = re.compile(r"<<-?\s*['\"]?\w+")
_REDIRECTED = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|'[^']*')|\s*\d?>>?\s*&?\s*\S+")
"""A redirection; what stands in quotes is taken whole, as a group, and is none."""

TRIVIAL = frozenset(
    "ls ll la pwd cd mkdir cat head tail less more bat echo printf which type whereis whoami id date uname hostname "
    "env true false : sleep wait clear history tree stat file wc sort uniq cut tr tee test [ export set unset source "
    ". jobs ps top df du sed awk jq xxd md5sum sha256sum basename dirname realpath readlink seq yes read exit touch "
    "man help".split()
)
"""Programs whose success nobody looks for later."""

SEARCHES = frozenset("grep egrep fgrep rg ag ack find fd fdfind".split())

_GIT_LOOKS = frozenset(
    "status log diff show branch remote add blame ls-files rev-parse config fetch describe reflog shortlog grep".split()
)
_COMMIT = re.compile(r"\bgit\b[^\n;&|]{0,80}?\bcommit\b")
_MESSAGE = re.compile(
    r"\s-[a-zA-Z]*m\s*(?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|(\S+))|--message[= ](?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)')"
)
_HEREDOC_TEXT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?\s*\n\s*([^\n]+)")
_SUBJECT_KINDS = (
    (re.compile(r"(?:bug|hot)?fix(?:e[sd])?\b|correct(?:s|ed)?\b|repair", re.IGNORECASE), ObservationKind.BUGFIX),
    (re.compile(r"feat(?:ure)?\b|add(?:s|ed)?\b|implement|introduce", re.IGNORECASE), ObservationKind.FEATURE),
    (re.compile(r"refactor|clean ?up|simplif|renam|extract|restructure", re.IGNORECASE), ObservationKind.REFACTOR),
)
_CHANGES = re.compile(
    r"(?:git\s+(?:push|merge|rebase|checkout|switch|tag|revert|cherry-pick|reset|stash|pull|clone|init|rm|mv|restore)"
    r"|(?:npm|pnpm|yarn|bun)\s+(?:i|install|add|remove|uninstall|ci|update|upgrade|publish)|(?:uv\s+)?pip3?\s+(?:un)?install"
    r"|uv\s+(?:add|remove|sync|lock)|poetry\s+(?:add|remove|install)|cargo\s+(?:add|remove|install)|go\s+(?:get|mod)"
    r"|apt(?:-get)?|brew|rm|mv|cp|chmod|ln|docker\s+(?:build|run|compose)|kubectl\s+(?:apply|delete)"
    r"|terraform\s+apply|alembic\s+upgrade)\b"
)


@dataclass(frozen=True, slots=True)
class CommandRun:
    """A command that ran, read: `line` is what it is known by, filters behind pipes and `cd` before it taken off."""

    step: Step
    line: str
    said: str
    lines: tuple[str, ...]
    tests: SuiteResult | None
    error: str
    exit_code: int | None

    @property
    def failed(self) -> bool:
        return bool(self.error) or (self.tests is not None and self.tests.failed > 0)


@dataclass(slots=True)
class _Repeats:
    """Runs of one command that ended alike, next to each other in the command's own sequence."""

    run: CommandRun
    steps: list[Step] = field(default_factory=list)
    mended: CommandRun | None = None
    """The failing run before it, where files were edited in between."""
    edited: tuple[str, ...] = ()
    passed_before: bool = False
    """Whether it had passed in this run before it failed: then the work on the way broke it, and mended it."""


def observe_commands(steps: Iterable[Step], edits: Sequence[tuple[int, str]]) -> Iterator[Draft]:
    """A draft for each command that deserves one; runs that ended as the one before are folded into it.

    `edits` are (index, path) of the run's edits in order: only with one between them is a passing test run after a
    failing one of the same command a fix.
    """
    ended: list[_Repeats] = []
    latest: dict[str, _Repeats] = {}
    passed: set[str] = set()
    for step in steps:
        run = read_command(step)
        if run is None:
            continue
        before = latest.get(run.line)
        if before and _result(before.run) == _result(run):
            before.steps.append(step)
            continue
        now = _Repeats(run, [step])
        if before and before.run.tests and before.run.failed and run.tests and not run.failed:
            start = before.steps[-1].index
            now.edited = tuple(path for index, path in edits if start < index < step.index)
            now.mended = before.run if now.edited else None
            now.passed_before = run.line in passed
        if run.tests and not run.failed:
            passed.add(run.line)
        latest[run.line] = now
        ended.append(now)
    for repeats in ended:
        yield _draft(repeats)


def read_command(step: Step) -> CommandRun | None:
    """The command of a shell tool's use; None where it is none, or one that gives no note."""
    use = step.use
    if use is None or use.tool != "Bash" or not use.command:
        return None
    programs = [_bare(part) for part in split_command(use.command)]
    programs = [program for program in programs if program]
    lines = [step.shortened(line) for line in lines_of(use.error or use.output)]
    if lines and re.match(r"(?:Error: )?Exit code:? -?\d+\s*$", lines[0], re.IGNORECASE):
        lines = lines[1:]
    if (
        use.failed
        and all(_word(program) in SEARCHES | {"test", "[", "diff"} for program in programs)
        and not any(lines)
    ):
        return None
    looks = all(is_look(program) for program in programs)
    if looks and not use.failed:
        return None
    tests = None if looks else read_test_run(lines)
    line = _known_by(programs)
    return CommandRun(
        step,
        line,
        step.text("description").strip(),
        tuple(lines),
        tests,
        _error(lines, failed=use.failed, tests=tests),
        use.exit_code if use.exit_code is not None else _exit_code_implied(use),
    )


def _exit_code_implied(use: ToolUse) -> int | None:
    """Claude Code tells of a command that failed by another event; of other agents' nobody knows how they ended."""
    return 0 if not use.failed and isinstance(use.response, Mapping) and "interrupted" in use.response else None


def split_command(command: str) -> list[str]:
    """The programs of a command line; the body of a here-document is not among them."""
    command = command[:_LONGEST_COMMAND].replace("\\\n", " ")
    if found := _HEREDOC.search(command):
        rest = command[found.end() :]
        command = command[: found.end()] + rest.split("\n", 1)[0]
    return [part.strip() for part in _PART.findall(command) if part.strip()]


def is_look(program: str) -> bool:
    """Whether a program only looks: its success tells nothing that is worth a note."""
    word = _word(program)
    if word == "sed":
        return " -i" not in program
    if word in {"cat", "echo", "printf", "tee"}:
        return not any(
            found[0].strip() and not found[1] and _writes(found[0]) for found in _REDIRECTED.finditer(program)
        )
    if word == "git":
        words = [part for part in program.split()[1:] if not part.startswith("-")]
        return not words or words[0] in _GIT_LOOKS
    return word in TRIVIAL or word in SEARCHES


def _writes(redirection: str) -> bool:
    return "&" not in redirection and "/dev/" not in redirection


def _without_redirections(program: str) -> str:
    return _REDIRECTED.sub(lambda found: found[1] or (found[0] if _writes(found[0]) else ""), program)


def _bare(part: str) -> str:
    bare = part.strip().strip("(){}").strip()
    for _ in range(3):
        bare = _WRAPPER.sub("", _ASSIGNED.sub("", bare))
    return bare


def _word(program: str) -> str:
    return program.split(None, 1)[0].rpartition("/")[2] if program else ""


def _known_by(programs: Sequence[str]) -> str:
    telling = [program for program in programs if not is_look(program)] or list(programs)
    return clip(" && ".join(_without_redirections(program) for program in telling), 300)


def _error(lines: Sequence[str], *, failed: bool, tests: SuiteResult | None) -> str:
    if failed:
        return first_error(lines) or last_word(lines) or "it failed"
    if tests is not None:
        return first_error(lines) if tests.failed else ""
    return exception_in(lines)


def _result(run: CommandRun) -> tuple[object, ...]:
    return (run.tests, run.error, run.exit_code, last_word(run.lines))


def _draft(repeats: _Repeats) -> Draft:
    run = repeats.run
    subject = commit_subject(run)
    sources = indexes(repeats.steps)
    times = f"Ran {len(repeats.steps)} times with the same result" if len(repeats.steps) > 1 else ""
    if repeats.mended is not None:
        return _fix(repeats, repeats.mended)
    if subject and not run.failed:
        kind = next((kind for pattern, kind in _SUBJECT_KINDS if pattern.match(subject)), ObservationKind.CHANGE)
        return Draft(
            kind,
            clip(f"Commit: {subject}", TITLE_LENGTH),
            narrative=clip(_commit_size(run.lines), NARRATIVE_LENGTH),
            concepts=("what-changed",),
            sources=sources,
        )
    output, ending = clip(_verdict(run), NARRATIVE_LENGTH), _ending(run)
    title = clip(f"{clip(_name(run), 60)}: {ending}" if ending else _name(run), TITLE_LENGTH)
    return Draft(
        _kind(run),
        title,
        narrative=clip(_how_it_went(run, title), NARRATIVE_LENGTH),
        facts=facts(
            failing_names(run.tests) if run.tests else "",
            run.error if run.error not in title else "",
            f"Output ends: {output}" if not run.error and run.tests is None and output not in title else "",
            times,
        ),
        concepts=("gotcha",) if run.failed else (),
        sources=sources,
    )


def _fix(repeats: _Repeats, broken: CommandRun) -> Draft:
    run = repeats.run
    was, now = broken.tests, run.tests
    failing = named((clip(name, 60) for name in was.failing), 1) if was and was.failing else f"`{clip(run.line, 50)}`"
    return Draft(
        ObservationKind.CHANGE if repeats.passed_before else ObservationKind.BUGFIX,
        clip(f"{failing} fixed: {now.counts if now else 'tests pass'}", TITLE_LENGTH),
        narrative=clip(
            f"`{clip(run.line, 120)}` had failed with {clip(broken.error or 'errors', 160)}; it passes after edits of "
            f"{named(repeats.edited, 4)}.",
            NARRATIVE_LENGTH,
        ),
        facts=facts(failing_names(was) if was else "", f"Error before: {broken.error}" if broken.error else ""),
        concepts=("problem-solution",),
        files_modified=tuple(dict.fromkeys(repeats.edited)),
        sources=(broken.step.index, *indexes(repeats.steps)),
    )


def _kind(run: CommandRun) -> ObservationKind:
    changes = not run.failed and any(_CHANGES.match(program) for program in run.line.split(" && "))
    return ObservationKind.CHANGE if changes else ObservationKind.DISCOVERY


def _name(run: CommandRun) -> str:
    return clip(run.line if len(run.line) <= 60 or not run.said else run.said, 90)


def _ending(run: CommandRun) -> str:
    if run.tests is not None:
        return f"{run.tests.counts}: {run.error}" if run.error else run.tests.counts
    return run.error or _verdict(run)


def _verdict(run: CommandRun) -> str:
    """Git has its say last; builds and checks often say more after how they went."""
    return last_word(run.lines) if _word(run.line) == "git" else verdict_in(run.lines)


def _how_it_went(run: CommandRun, title: str) -> str:
    """What the agent said that the command is for, the command where the title has not all of it, and its exit."""
    said = run.said if run.said and run.said not in title else ""
    line = f"`{clip(run.line, 200)}`" if run.line not in title else ""
    has_failed = run.step.use is not None and run.step.use.failed
    ended = f"Exit {run.exit_code}" if run.exit_code is not None else "Failed" if has_failed else ""
    return " ".join(f"{part}." for part in (said, line, ended) if part)


def commit_subject(run: CommandRun) -> str:
    """The subject of the commit that a command made; empty where it made none."""
    command = (run.step.use.command if run.step.use else None) or ""
    command = command[:_LONGEST_COMMAND]
    made = _COMMIT.search(command)
    if made is None:
        return ""
    rest = command[made.end() :]
    found = _MESSAGE.search(rest)
    message = next((group for group in found.groups() if group), "") if found else ""
    if document := _HEREDOC_TEXT.search(rest):
        message = document[2]
    return next((line.strip() for line in message.splitlines() if line.strip()), "")


_STAT = re.compile(r"\s*\d+ files? changed.*")


def _commit_size(lines: Sequence[str]) -> str:
    return next((line.strip() for line in lines if _STAT.match(line)), "")
