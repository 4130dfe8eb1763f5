"""`/docs`: the table of operations as one page of plain HTML that needs no network and no script."""

from collections.abc import Sequence
from html import escape
from http import HTTPStatus
from typing import Any

from msgspec.inspect import ListType, Metadata, StructType, Type, type_info

from onlooker import __version__
from onlooker.http.operation import Operation

GROUPS = {
    "Events": ("/v1/events",),
    "Sessions": ("/v1/sessions",),
    "Observations": (
        "/v1/observations",
        "/v1/search",
        "/v1/timeline",
        "/v1/context",
        "/v1/forget",
        "/v1/projects/{project_id}/memory",
    ),
    "Generation jobs": ("/v1/jobs", "/v1/teams", "/v1/projects"),
    "Hooks": ("/v1/hooks",),
    "Health": ("/healthz", "/api/health", "/api/readiness", "/v1/info"),
    "Older names of the same": ("/v1/memories", "/api/sessions"),
}
"""What stands under which heading, by how its path begins; the first that fits."""


def render(operations: Sequence[Operation]) -> str:
    """The page."""
    left = list(operations)
    parts = []
    for heading, beginnings in GROUPS.items():
        members = [operation for operation in left if operation.path.startswith(beginnings)]
        left = [operation for operation in left if operation not in members]
        parts.append(_section(heading, members))
    if left:
        parts.append(_section("More", left))
    return PAGE.replace("{sections}", "".join(parts)).replace("{version}", escape(__version__))


def _section(heading: str, operations: Sequence[Operation]) -> str:
    return f"<section><h2>{escape(heading)}</h2>{''.join(map(_article, operations))}</section>"


def _article(operation: Operation) -> str:
    lines = [
        ("Query", _fields(operation.query)),
        ("Body", _body(operation.body)),
        ("Answers", ", ".join(f"{status} {HTTPStatus(status).phrase}" for status in sorted(operation.answers))),
    ]
    details = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in lines if text)
    scope = f"<i>{operation.scope}</i>" if operation.scope else "<i>no key</i>"
    return (
        f"<article><h3><b class={operation.method.lower()}>{operation.method}</b>"
        f"<code>{escape(operation.path)}</code>{scope}</h3>"
        f"<p>{escape(operation.summary)}</p><dl>{details}</dl></article>"
    )


def _body(shape: Any) -> str:
    """What a body holds: fields, a list of things with fields, or an agent's own words."""
    if shape is None:
        return ""
    told = _plain(type_info(shape))
    if isinstance(told, ListType):
        return f"a list, each with {_names(_plain(told.item_type))}"
    return _names(told) or "a JSON object, as the agent sends it"


def _fields(shape: Any) -> str:
    return "" if shape is None else _names(_plain(type_info(shape)))


def _plain(told: Type) -> Type:
    """A type without what is only said about it."""
    while isinstance(told, Metadata):
        told = told.type
    return told


def _names(told: Type) -> str:
    """The names that an object takes; those that must be there first and bold."""
    if not isinstance(told, StructType):
        return ""
    required = [f"<b>{escape(field.encode_name)}</b>" for field in told.fields if field.required]
    return ", ".join([*required, *(escape(field.encode_name) for field in told.fields if not field.required)])


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Onlooker API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 16%,transparent)}
body{font:15px/1.5 system-ui,sans-serif;max-width:58rem;margin:2rem auto 4rem;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h1+p{margin:.3rem 0;opacity:.8}
h2{font-size:1.05rem;margin:2.2rem 0 .2rem}
article{border-top:1px solid var(--line);padding:.7rem 0}
h3{display:flex;flex-wrap:wrap;align-items:baseline;gap:.3rem .7rem;font-size:1rem;font-weight:400;margin:0}
h3 b{font:600 12px ui-monospace,monospace;min-width:3.6rem;text-align:center;padding:.15rem 0;border-radius:.3rem;
background:color-mix(in srgb,#3a7bd5 22%,transparent)}h3 b.post{background:color-mix(in srgb,#2e9e5b 26%,transparent)}
h3 b.delete{background:color-mix(in srgb,#d5533a 26%,transparent)}
h3 i{margin-left:auto;font-style:normal;font-size:.8rem;opacity:.65}
code{font:14px ui-monospace,monospace;overflow-wrap:anywhere}
p{margin:.25rem 0}
dl{display:grid;grid-template-columns:4.5rem 1fr;gap:.1rem .5rem;margin:.3rem 0 0;font-size:.85rem}
dt{opacity:.6}dd{margin:0;overflow-wrap:anywhere}
</style></head><body><h1>Onlooker API {version}</h1>
<p>Send a key as <code>Authorization: Bearer KEY</code> or <code>X-Api-Key: KEY</code>; its scope stands at the right.
Names in bold are required. Times are epoch milliseconds. The whole description, errors included, is
<a href="/openapi.json">/openapi.json</a>.</p>{sections}</body></html>"""
