"""Reading whole numbers that a client wrote with a point.

5.0 is an integer to JSON Schema, in which the bodies are described; to a strict reader it is not.
"""

from typing import Any

import msgspec
from msgspec.inspect import IntType, ListType, Metadata, StructType, Type, UnionType, type_info


def integer_fields(shape: Any) -> frozenset[str]:
    """The names, on the wire, of the fields that hold integers."""
    struct = _struct_of(shape)
    return frozenset() if struct is None else frozenset(f.encode_name for f in struct.fields if _takes_integer(f.type))


def reread(raw: bytes, shape: Any, integers: frozenset[str]) -> Any:
    """The body, where all that is wrong with it is how it writes whole numbers in these fields.

    Raises as msgspec does where more is wrong with it.
    """
    return msgspec.convert(_with_integers(msgspec.json.decode(raw), integers), shape)


def _struct_of(shape: Any) -> StructType | None:
    """The object that a body is, or of a list the object that its members are; None for anything else."""
    told: Any = None if shape is None else type_info(shape)
    while isinstance(told, ListType | Metadata):
        told = told.item_type if isinstance(told, ListType) else told.type
    return told if isinstance(told, StructType) else None


def _takes_integer(kind: Type) -> bool:
    return any(isinstance(each, IntType) for each in (kind.types if isinstance(kind, UnionType) else (kind,)))


def _with_integers(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_with_integers(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: int(each) if name in names and isinstance(each, float) and each.is_integer() else each
        for name, each in value.items()
    }
