"""The promises that the repository makes about itself."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onlooker

ROOT = Path(__file__).parent.parent
TARGETS = {
    *("setup", "demo", "test", "check", "fmt", "lint", "types", "imports"),
    *("bench", "bench-recall", "chaos", "live", "lock", "clean"),
}
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
# Written in parts, so that this file does not hold what it looks for.
REGISTRY_HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "registry.yarnpkg" + ".com")
# Folders of the machine that something was written on; a path in an example starts elsewhere.
MACHINE_PATHS = re.compile(r"(?<![\w.~>/-])/" + r"(?:work|root)/")
LOCK_FILES_WITH_HOSTS = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"}


def committed_files() -> list[Path]:
    """Every file under version control that is still there."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 10
    return files


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+) +\S", listed, flags=re.MULTILINE)) == TARGETS


def test_every_listed_target_is_phony_so_that_a_file_of_its_name_stops_nothing() -> None:
    [phony] = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(phony.split()) == TARGETS | {"help"}


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_is_pinned_and_has_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]

    assert len(requirements) > 20
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+==\S+ ", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_name_no_host_and_no_place_on_a_disk(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert " @ " not in text
    assert not re.findall(
        r"^\s*(?:-i|-f|--index|--extra-index|--find-links|--trusted-host).*", text, flags=re.MULTILINE
    )
    assert not re.findall(r"^[^#]*(?:^|\s)\.?/.*", text, flags=re.MULTILINE)


def test_a_server_needs_no_version_that_a_developer_does_not_have() -> None:
    pins = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE))
        for name in REQUIREMENTS
    ]
    runtime, dev = pins
    assert runtime.items() <= dev.items()


def test_every_dependency_of_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name, declared in {
        "requirements.txt": [*project["dependencies"], *extras["team"]],
        "requirements-dev.txt": [*project["dependencies"], *extras["team"], *extras["dev"]],
    }.items():
        pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / name).read_text(), flags=re.MULTILINE))
        names = {re.split(r"[^A-Za-z0-9_.-]", each)[0].lower().replace("_", "-") for each in declared} - {"onlooker"}
        assert names <= pinned, f"{name} is behind pyproject.toml: run make lock"


def test_committed_text_names_no_machine_path_and_no_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in committed_files()
        if (text := text_of(path)) is not None
        for word in [*(host for host in REGISTRY_HOSTS if host in text), *MACHINE_PATHS.findall(text)]
    ]
    assert found == []


def test_the_search_for_machine_paths_finds_one_and_leaves_others_alone() -> None:
    assert MACHINE_PATHS.search('cwd = "/' + 'work/app"')
    assert not MACHINE_PATHS.search("/home/ada/work/app")
    assert not MACHINE_PATHS.search("https://example.test/work/1")


def test_no_lock_file_that_names_hosts_is_committed() -> None:
    assert not {path.name for path in committed_files()} & LOCK_FILES_WITH_HOSTS


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert sections[0] == "Unreleased"


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:\.dev\d+|[ab]\d+|rc\d+)?", onlooker.__version__)


@pytest.mark.parametrize("package", ["domain", "hooks"])
def test_packages_that_run_on_the_standard_library_alone_import_nothing_else(package: str) -> None:
    own = f"onlooker.{package}"
    foreign = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "src/onlooker" / package).rglob("*.py")
        for name in imported_by(path)
        if name.partition(".")[0] not in sys.stdlib_module_names and name != own and not name.startswith(f"{own}.")
    }
    assert foreign == set()


def imported_by(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("marker", ["skip", "xfail"])
def test_no_test_is_left_out(marker: str) -> None:
    left_out = re.compile(rf"\bpytest\.(?:mark\.)?(?:{marker}|{marker}if|importor{marker})\b")
    found = [path.name for path in (ROOT / "tests").rglob("*.py") if left_out.search(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("tree", ["src", "tests"])
def test_what_silences_a_check_says_why(tree: str) -> None:
    silenced = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b(?P<codes>(?::\s*[A-Z0-9, ]+|\[[a-z-, ]+\])?)(?P<reason>.*)")
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / tree).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := silenced.search(line))
        and not (match["codes"] and len(match["reason"].strip(" -#:;,()")) >= len("a why"))
    ]
    assert bare == []
