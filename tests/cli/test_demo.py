"""The demo, as somebody sees it who never saw the project."""

import re
import time
from pathlib import Path

import pytest

from cli_runner import Cli
from onlooker.cli.demo import QUESTIONS


@pytest.mark.timeout(120)
def test_the_demo_shows_what_it_is_for_and_leaves_nothing_behind(cli: Cli, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    cli.extra["TMPDIR"] = str(temporary)
    began = time.monotonic()

    ended = cli.run("demo")

    assert time.monotonic() - began < 60
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"hooks sent .* 119/119", ended.out)
    [(done, total)] = re.findall(r"events observed .* (\d+)/(\d+)", ended.out)
    assert done == total != "0"
    assert (
        len(
            re.findall(
                r"^ +\d\d:\d\d:\d\d +(?:bugfix|feature|change|discovery|decision|summary)", ended.out, re.MULTILINE
            )
        )
        > 40
    )
    for question in QUESTIONS:
        _, _, answer = ended.out.partition(f'onlooker search "{question}"')
        assert re.match(r"\s+\d\d:\d\d:\d\d ", answer), question
    assert "9042-EXAMPLE" not in ended.out
    assert re.search(r"onlooker serve +the server", ended.out)
    assert list(temporary.iterdir()) == []
    assert not cli.home.exists()
