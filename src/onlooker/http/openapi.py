"""`/openapi.json`, made from the table of operations, and `/docs`, a page that shows it without any network."""

from collections.abc import Sequence
from html import escape
from http import HTTPStatus
from re import findall
from typing import Any

import msgspec

from onlooker import __version__
from onlooker.http.answer import Problem
from onlooker.http.operation import Operation

ERROR_500 = 500


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the operations."""
    shapes = [Problem]
    for operation in operations:
        shapes += [shape for shape in (operation.body, operation.query, *operation.answers.values()) if shape]
    schemas, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    by_shape = {_key(shape): schema for shape, schema in zip(shapes, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe_one(operation, by_shape, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Onlooker", "version": __version__, "description": "Watches coding agents and remembers."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _key(shape: Any) -> str:
    return repr(shape)


def _describe_one(operation: Operation, by_shape: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    answers = {
        str(status): _answer(HTTPStatus(status).phrase, by_shape[_key(shape)])
        for status, shape in operation.answers.items()
    }
    for status in sorted({*operation.all_problems, ERROR_500} - set(operation.answers)):
        answers[str(status)] = _answer(HTTPStatus(status).phrase, by_shape[_key(Problem)])
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}_{operation.path.strip('/').replace('/', '_')}",
        "responses": answers,
        "parameters": _path_parameters(operation) + _query_parameters(operation, by_shape, components),
    }
    if operation.scope is not None:
        described["security"] = [{"bearer": []}, {"apiKey": []}]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_shape[_key(operation.body)]}},
        }
    return described


def _answer(phrase: str, schema: Any) -> dict[str, Any]:
    return {"description": phrase, "content": {"application/json": {"schema": schema}}}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in findall(r"\{(\w+)\}", operation.path)
    ]


def _query_parameters(
    operation: Operation, by_shape: dict[str, Any], components: dict[str, Any]
) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    reference = by_shape[_key(operation.query)]["$ref"].rpartition("/")[2]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in components[reference]["properties"].items()
    ]


def render(operations: Sequence[Operation]) -> str:
    """The operations as one page of plain HTML."""
    rows = "".join(
        f"<tr><td><b class={operation.method.lower()}>{operation.method}</b></td>"
        f"<td><code>{escape(operation.path)}</code></td><td>{escape(operation.summary)}</td>"
        f"<td>{operation.scope or 'none'}</td><td>{_fields(operation)}</td></tr>"
        for operation in operations
    )
    return PAGE.replace("{rows}", rows).replace("{version}", escape(__version__))


def _fields(operation: Operation) -> str:
    """The names that a request's body or query takes; those that must be there first and bold."""
    shape = operation.body or operation.query
    if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
        return ""
    fields = msgspec.structs.fields(shape)
    required = [f"<b>{escape(field.encode_name)}</b>" for field in fields if field.required]
    return ", ".join([*required, *(escape(field.encode_name) for field in fields if not field.required)])


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Onlooker API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 18%,transparent)}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}p{margin:.3rem 0 1.2rem;opacity:.8}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.45rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-size:.8rem;text-transform:uppercase;letter-spacing:.04em;opacity:.65}
code{font:13px ui-monospace,monospace}
td b[class]{font:600 12px ui-monospace,monospace;padding:.1rem .4rem;border-radius:.3rem;
background:color-mix(in srgb,#3a7bd5 22%,transparent)}td b.post{background:color-mix(in srgb,#2e9e5b 26%,transparent)}
td b.delete{background:color-mix(in srgb,#d5533a 26%,transparent)}td:last-child{font-size:.85rem}
</style></head><body><h1>Onlooker API {version}</h1>
<p>Send a key as <code>Authorization: Bearer KEY</code> or <code>X-Api-Key: KEY</code>. The whole description is
<a href="/openapi.json">/openapi.json</a>.</p>
<table><thead><tr><th>Method</th><th>Path</th><th>What it does</th><th>Scope</th>
<th>Takes (bold: required)</th></tr></thead>
<tbody>{rows}</tbody></table></body></html>"""
