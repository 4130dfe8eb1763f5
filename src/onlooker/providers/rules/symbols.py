"""What a line of source text declares, imports or calls, in most languages, by its looks alone."""

import re
from collections.abc import Iterable, Iterator

_LONGEST_LINE = 400

_MODIFIER = r"(?:public|private|protected|internal|abstract|final|sealed|static|data|partial|pub(?:\([a-z]+\))?)"
_DECLARATIONS = (
    r"(?:async\s+)?def\s+(?:self\.)?(\w+)",
    rf"(?:{_MODIFIER}\s+){{0,4}}(?:class|interface|trait|struct|enum|record|union|protocol|module|namespace)\s+(\w+)",
    r"(?:async\s+)?function\s*\*?\s*(\w+)",
    r"(?:const|let|var)\s+(\w+)\s*(?::[^=]{1,80})?=\s*(?:async\s+)?(?:function\b|\([^)]{0,200}\)\s*(?::[^=]{1,80})?=>|\w+\s*=>)",
    r"type\s+(\w+)\s*(?:<[^>]{0,80}>\s*)?(?:=|struct\b|interface\b)",
    r"func\s+(?:\([^)]{0,100}\)\s*)?(\w+)",
    r"(?:pub(?:\([a-z]+\))?\s+)?(?:const\s+)?(?:async\s+)?(?:unsafe\s+)?fn\s+(\w+)",
    r"impl(?:<[^>]{0,80}>)?\s+(?:[\w:]+(?:<[^>]{0,80}>)?\s+for\s+)?(\w+)",
    r"(?:public|private|protected|internal)\s+(?:[\w<>\[\],?]+\s+){1,5}(\w+)\s*\(",
    r"(\w+)\s*\(\)\s*\{$",
    r"(?:it|test|describe)(?:\.\w+)?\(\s*[\"'`]([^\"'`]{1,100})[\"'`]",
    r"CREATE\s+(?:TABLE|VIEW|INDEX|FUNCTION)\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)",
)
_DECLARES = re.compile(
    r"\s*(?:export\s+)?(?:default\s+)?(?:" + "|".join(f"(?:{pattern})" for pattern in _DECLARATIONS) + ")"
)
_HEADING = re.compile(r"#{1,6}\s+(.{1,200}?)\s*#*$")
_SECTION = re.compile(r"\[{1,2}([^\[\]]{1,100})\]{1,2}\s*$")

_KEY = re.compile(r"\s*[\"']?([\w.@/-]{1,100})[\"']?\s*:(?:\s|$)")

_PROSE = (".md", ".markdown", ".mdx", ".rst", ".adoc", ".txt")
_KEYED = (".json", ".yaml", ".yml")
_SECTIONED = (".toml", ".ini", ".cfg", ".conf")

_FROM_IMPORT = re.compile(r"\s*from\s+([\w.]+)\s+import\s+\(?([\w\s,*]{1,300})")
_IMPORT = re.compile(r"\s*import\s+([\w.]+(?:\s*,\s*[\w.]+){0,10})\s*(?:as\s+\w+)?;?\s*(?:#.*)?$")
_JS_IMPORT = re.compile(r"\s*(?:import|export)\s+(?:type\s+)?([\w\s{},*$]{1,300}?)\s+from\s+[\"']([^\"']{1,200})[\"']")
_USE = re.compile(r"\s*(?:pub\s+)?use\s+([\w:{}, *]{1,200});")

_CALL = re.compile(r"(?<![\w.])((?:[A-Za-z_]\w*\.){0,2}[A-Za-z_]\w*)\(")
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_NO_CALLS = frozenset(
    "if for while switch catch return and or not in is elif except with lambda def class function fn func await "
    "assert print super self raise yield import from match case require typeof del sizeof new str len list dict range "
    "isinstance type".split()
)


def declared(line: str, path: str) -> str | None:
    """The function, class, heading or section that begins on this line."""
    if len(line) > _LONGEST_LINE:
        return None
    if path.lower().endswith(_PROSE):
        found = _HEADING.match(line)
    elif path.lower().endswith(_SECTIONED):
        found = _SECTION.match(line)
    elif path.lower().endswith(_KEYED):
        found = _KEY.match(line)
    else:
        found = _DECLARES.match(line)
    return next((name for name in found.groups() if name), None) if found else None


def imported(line: str) -> Iterator[str]:
    """What a line imports, as `name from module` or the module alone."""
    if len(line) > _LONGEST_LINE:
        return
    if found := _FROM_IMPORT.match(line):
        yield from (f"{name} from {found[1]}" for name in _names(found[2]))
    elif found := _JS_IMPORT.match(line):
        yield from (f"{name} from {found[2]}" for name in _names(found[1]))
    elif found := (_USE.match(line) or _IMPORT.match(line)):
        yield found[1].strip()


def called(lines: Iterable[str]) -> dict[str, None]:
    """The names that are called in these lines, in order; strings and what every program calls are left out."""
    names: dict[str, None] = {}
    for line in lines:
        if len(line) <= _LONGEST_LINE and not declared(line, ""):
            for found in _CALL.finditer(_STRING.sub('""', line)):
                if found[1] not in _NO_CALLS and len(found[1]) > 2:
                    names[found[1]] = None
    return names


def declared_in(lines: Iterable[str], path: str) -> list[str]:
    """What the lines of a source file or a text declare, in order."""
    if path.lower().endswith(_KEYED):
        return []
    if not is_prose_path(path):
        return list(dict.fromkeys(name for line in lines if (name := declared(line, path))))
    names: dict[str, None] = {}
    fenced = False
    for line in lines:
        fenced ^= line.lstrip().startswith("```")
        if not fenced and (name := declared(line, path)):
            names[name] = None
    return list(names)


def opening_remark(lines: Iterable[str], path: str) -> str:
    """What a file says of itself in its first line that is a comment, a docstring or a heading; else empty."""
    for line in list(lines)[:10]:
        bare = line.strip()
        if not bare or bare.startswith(
            ("#!", "<?", "---", "// @", "//go:build", "// +build", "/* eslint", '"use ', "# -*-")
        ):
            continue
        if path.lower().endswith(_PROSE):
            return bare.lstrip("#").strip()
        marks = ('"""', "'''", 'r"""', "/**", "/*", "//!", "///", "//", "--", "#", "<!--")
        mark = next((mark for mark in marks if bare.startswith(mark)), None)
        if mark is None:
            return ""
        remark = (
            bare[len(mark) :].strip().removesuffix('"""').removesuffix("'''").removesuffix("*/").removesuffix("-->")
        )
        if remark.strip(" *-="):
            return remark.strip(" *-=")
    return ""


def is_test_path(path: str) -> bool:
    """Whether a file holds tests, by the habits of most languages."""
    parts = path.lower().split("/")
    name = parts[-1]
    return (
        any(part in {"test", "tests", "__tests__", "spec", "specs", "e2e"} for part in parts[:-1])
        or name.startswith("test_")
        or any(mark in name for mark in ("_test.", ".test.", ".spec.", "_spec."))
    )


def is_prose_path(path: str) -> bool:
    return path.lower().endswith(_PROSE)


def _names(listed: str) -> list[str]:
    bare = listed.replace("{", " ").replace("}", " ").split("#", 1)[0]
    return [part.split(" as ")[0].removeprefix("type ").strip() for part in bare.split(",") if part.strip()][:12]
