from onlooker.domain.models import ObservationKind
from providers.happened import asked, edited, note_of, notes_of, used, wrote


def test_an_edit_names_the_file_and_the_function_it_touched() -> None:
    note = note_of(
        edited(
            "src/cart.py",
            "def total(rows):\n    return sum(rows)\n",
            "def total(rows):\n    return round(sum(rows), 2)\n",
        )
    )
    assert note.title == "src/cart.py: change total"
    assert note.subtitle == "1 edit, +1 −1 lines"
    assert note.files_modified == ("src/cart.py",)
    assert note.kind is ObservationKind.CHANGE


def test_the_patch_says_what_a_change_deep_in_a_function_belongs_to() -> None:
    body = "        a = 1\n        b = 2\n        c = 3\n        d = 4\n        return a\n"
    original = f"class Cart:\n    def total(self):\n{body}"
    patch = {"oldStart": 5, "oldLines": 3, "newStart": 5, "newLines": 3}
    lines = ["         c = 3", "         d = 4", "-        return a", "+        return a + b"]
    note = note_of(
        used(
            "Edit",
            {"file_path": "/home/dev/app/cart.py", "old_string": "return a", "new_string": "return a + b"},
            {"newString": "return a + b", "originalFile": original, "structuredPatch": [{**patch, "lines": lines}]},
        )
    )
    assert note.title == "cart.py: change total"


def test_new_gone_and_changed_functions_are_told_apart() -> None:
    note = note_of(
        edited(
            "app.ts",
            "function gone() {\n  return 1\n}\nfunction kept() {\n  return 1\n}\n",
            "function kept() {\n  return 2\n}\nexport const fresh = (x: number) => x\n",
        )
    )
    assert note.title == "app.ts: add fresh; change kept; remove gone"


def test_several_edits_of_a_file_make_one_observation() -> None:
    notes = notes_of(
        edited("a.py", "x = 1\n", "x = 2\n"),
        edited("b.py", "def f():\n    pass\n", "def g():\n    pass\n"),
        edited("a.py", "y = 1\n", "def h():\n    pass\n"),
    )
    assert [(note.files_modified, note.sources) for note in notes] == [(("a.py",), (0, 2)), (("b.py",), (1,))]
    assert notes[0].subtitle == "2 edits, +3 −2 lines"


def test_a_small_replacement_is_quoted() -> None:
    note = note_of(edited("money.py", "return float(amount) / 3", "return Decimal(amount) / 3"))
    assert "`float` became `Decimal`" in note.facts
    assert "Now calls Decimal" in note.facts
    assert "No longer calls float" in note.facts


def test_an_import_is_named_with_its_module() -> None:
    note = note_of(edited("money.py", "import re\n", "import re\nfrom decimal import Decimal\n"))
    assert note.title == "money.py: import Decimal from decimal"


def test_a_new_source_file_is_a_feature_and_says_what_it_is_for() -> None:
    note = note_of(wrote("money.py", '"""Exact amounts of money."""\n\n\ndef to_cents(amount):\n    return amount\n'))
    assert note.title == "money.py: new file with to_cents"
    assert note.narrative == "Exact amounts of money."
    assert note.kind is ObservationKind.FEATURE


def test_test_files_and_documents_are_changes_even_when_new() -> None:
    notes = notes_of(
        wrote("tests/test_money.py", "def test_half_a_cent_goes_up():\n    assert True\n"),
        wrote("README.md", "# App\n\n## Install\n\ntext\n"),
    )
    assert [note.kind for note in notes] == [ObservationKind.CHANGE, ObservationKind.CHANGE]
    assert notes[0].title == "tests/test_money.py: new file with test_half_a_cent_goes_up"
    assert notes[1].title == "README.md: new file with “Install”"


def test_a_written_decision_is_a_decision() -> None:
    note = note_of(wrote("docs/decisions/0004-queue.md", "# Decisions\n\n## One queue for all lanes\n\nBecause.\n"))
    assert note.kind is ObservationKind.DECISION
    assert "One queue for all lanes" in note.title


def test_only_a_prompt_that_says_so_makes_an_edit_a_fix() -> None:
    edit = edited("cart.py", "total = 1\n", "total = 2\n")
    assert [note.kind for note in notes_of(asked("Please fix the total"), edit)] == [ObservationKind.BUGFIX]
    assert [note.kind for note in notes_of(asked("Rename total to sum"), edit)] == [ObservationKind.REFACTOR]
    assert [note.kind for note in notes_of(asked("Use a prefix for totals"), edit)] == [ObservationKind.CHANGE]


def test_an_edit_that_failed_or_changed_nothing_gives_none() -> None:
    failed = used("Edit", {"file_path": "/home/dev/app/a.py", "old_string": "x", "new_string": "y"}, error="not found")
    assert notes_of(failed, edited("a.py", "x = 1\n", "x = 1\n")) == []


def test_a_patch_of_several_files_gives_one_observation_a_file() -> None:
    patch = (
        "*** Begin Patch\n*** Update File: src/a.go\n@@ func Run() {\n-\treturn 1\n+\treturn 2\n"
        "*** Add File: src/b.go\n+func Stop() {\n+}\n*** Delete File: src/c.go\n*** End Patch"
    )
    notes = notes_of(used("apply_patch", {"input": patch}, "Success"))
    assert [note.title for note in notes] == [
        "src/a.go: change Run",
        "src/b.go: new file with Stop",
        "src/c.go: deleted",
    ]


def test_values_of_files_with_secrets_are_not_quoted() -> None:
    note = note_of(edited(".env", "TOKEN=abc123\n", "TOKEN=def456\n"))
    assert note.title == ".env: 1 line added, 1 removed"
    assert "def456" not in note.content


def test_a_comment_in_a_code_block_is_no_heading() -> None:
    note = note_of(edited("README.md", "# App\n", "# App\n\n```sh\n# install it\nmake\n```\n\n## Use\n"))
    assert note.title == "README.md: add “Use”; change “App”"


def test_keys_of_configuration_are_named() -> None:
    note = note_of(edited("package.json", '{\n  "auth0": "1.0"\n}\n', '{\n  "helmet": "2.0"\n}\n'))
    assert note.title == "package.json: add helmet; remove auth0"
