"""`/openapi.json`, made from the table of operations."""

from collections.abc import Sequence
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
    needed = components[reference].get("required", ())
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": schema}
        for name, schema in components[reference]["properties"].items()
    ]
