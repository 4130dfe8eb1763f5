"""The command line."""

import contextlib
import io
import json
import unittest

from tally.cli import main


def run(*argv: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one call."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(argv))
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


class CliTest(unittest.TestCase):
    """What the flags do."""

    def test_since_leaves_out_earlier_days(self) -> None:
        _, out, _ = run("--since", "2026-03-15", "sample/march.txt")
        self.assertIn("39.83", out)

    def test_since_counts_the_day_itself(self) -> None:
        _, out, _ = run("--since", "2026-03-28", "sample/march.txt")
        self.assertIn("9.95", out)

    def test_since_compares_days_however_they_are_written(self) -> None:
        status, out, _ = run("--since", "2026-03-15", "sample/phone.txt")
        self.assertEqual(status, 0)
        self.assertNotIn("groceries", out)

    def test_a_day_that_is_none_is_refused(self) -> None:
        status, _, err = run("--since", "soon", "sample/march.txt")
        self.assertEqual(status, 2)
        self.assertIn("not a day: 'soon'", err)

    def test_json_keeps_amounts_as_text(self) -> None:
        status, out, _ = run("--json", "sample/march.txt")
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(out)["categories"]["household"], "31.18")
        self.assertEqual(json.loads(out)["total"], "148.63")
