"""Words for users, a version and a tag."""

from recorder.session import Session

README_FLAGS = """    python3 -m tally --since 2026-03-15 sample/march.txt
    python3 -m tally --json sample/march.txt

`--since` counts the day itself. `--json` prints amounts as strings, so that nothing makes floats of them.
"""

CHANGELOG = """# Changelog

## 0.2.0

- Added: `--since DAY` and `--json`.
- Added: decimal commas and marks for thousands, as the phone app writes them. `1.204` alone is refused.
- Fixed: shares are rounded to the cent one by one, half up, so that totals agree with the bank.
- Fixed: `2026-3-9` is a day like any other; days were compared as text.
- Fixed: a line that cannot be read, and a receipt shared by nobody, give one message and exit status 2.

## 0.1.0

- Totals by category.
"""


def play(dev: Session) -> None:
    dev.prompt("Good. Write it up: README for the flags, a changelog, version 0.2.0, tag it. Then show me the log.")
    dev.use("Grep", pattern=r"0\.1\.0", glob="**/*")
    dev.edit(
        "README.md",
        "    python3 -m tally sample/march.txt\n",
        "    python3 -m tally sample/march.txt\n" + README_FLAGS,
    )
    dev.edit(
        "README.md",
        "Lines that begin with `#` are comments.\n",
        "Lines that begin with `#` are comments.\n"
        "Amounts may be written `12.50`, `12,50`, `1.204,50` or `1,204.50`.\n\n"
        "The tests: `python3 -m unittest`. Why things are as they are: DECISIONS.md.\n",
    )
    dev.write("CHANGELOG.md", CHANGELOG)
    dev.edit("tally/__init__.py", '"0.1.0"', '"0.2.0"')
    dev.bash("python3 -m unittest && python3 -m tally sample/march.txt", "Last check: tests and the March report")
    dev.use("mcp__bank__month_totals", month="2026-03")
    dev.bash(
        "git add . && git commit -q -m 'Release 0.2.0' && git tag v0.2.0 "
        "&& git log --oneline --decorate && git status --short",
        "Commit, tag and show the log",
    )
    dev.stop(
        "0.2.0 is tagged: README has the flags, CHANGELOG.md has what changed. All 17 tests pass, March is 148.63 in "
        "the report and at the bank, and nothing is left uncommitted."
    )
