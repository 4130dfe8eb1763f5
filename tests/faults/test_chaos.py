"""A minute of chaos; `make chaos` has ten."""

import secrets
from pathlib import Path

import pytest

from chaos import run_chaos


@pytest.mark.timeout(400)
def test_a_minute_of_chaos_loses_and_doubles_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    run_chaos(tmp_path, seed=secrets.randbelow(10**6), seconds=60)
