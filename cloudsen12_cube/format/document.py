"""JSON that was read, as frozen dataclasses: types and ranges are compared with the annotations, here and nowhere else.

``parse(ShardRecord, json.loads(data))`` gives a record or raises ``ValueError`` with the field, the value found and
what is allowed. Ranges stand in the annotations: ``Annotated[int, range(3)]``, ``Annotated[str, "[0-9a-f]{64}"]``.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

Reader = Callable[[Any], Any]

Natural = Annotated[int, range(2**63)]
"""0 or more: bytes, counts and positions."""

Digest = Annotated[str, "[0-9a-f]{64}"]
"""A sha256."""


def load_json(data: bytes | str) -> Any:
    """Decode JSON.

    Raises
    ------
    ValueError
        If the bytes are no JSON; also where it is nested deeper than Python's stack.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def attribute_texts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Write the attributes that hold mappings as JSON texts, which NetCDF can store; the others are kept.

    Parameters
    ----------
    attributes : mapping
        Of a group or an array of a cube.
    """

    def nested(value: Any) -> bool:
        return isinstance(value, Mapping) or (isinstance(value, list) and any(map(nested, value)))

    return {name: json.dumps(value) if nested(value) else value for name, value in attributes.items()}


def attribute_mapping(value: Any) -> dict[str, Any]:
    """Read an attribute that holds a mapping, or the JSON text of one.

    Parameters
    ----------
    value : object
        As an opened object has it (text), or as it stands in a store.

    Raises
    ------
    ValueError
        If it is neither.
    """
    read = load_json(value) if isinstance(value, str) else value
    if not isinstance(read, Mapping):
        raise ValueError(f"holds {value!r}, expected an object")  # noqa: TRY004  as of every fault of a document
    return dict(read)


def parse[T](kind: type[T], value: Any) -> T:
    """Make a value of an annotated type from decoded JSON.

    Parameters
    ----------
    kind : type
        A dataclass, or any annotation made of dataclasses, tuples, mappings, literals and scalars.
    value : object
        What ``json.loads`` gave.

    Raises
    ------
    ValueError
        If a field is unknown or not there, or a value has another type or is out of range.
    """
    parsed: T = _reader(kind)(value)  # type: ignore[arg-type]  # types are hashable, and mypy's `type[T]` is not
    return parsed


@cache
def _reader(kind: Any) -> Reader:
    """Compile the check of an annotation, once: records are read by the hundred thousand."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin is Annotated:
        return _limited(_reader(arguments[0]), arguments[1])
    if origin is Literal:
        return _expect(lambda value: type(value) in (str, int) and value in arguments, f"one of {_listed(arguments)}")
    if origin in (Union, types.UnionType):  # nothing but "X or None" is used
        inner = _reader(next(part for part in arguments if part is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin in (dict, Mapping):
        key_of, inner = map(_reader, arguments)
        check = _expect(lambda value: isinstance(value, dict), "an object")
        return lambda value: {key_of(key): _at(key, inner, row) for key, row in check(value).items()}
    if kind is float:
        check = _expect(lambda value: type(value) in (int, float), "a number")
        return lambda value: float(check(value))
    names = {int: "a whole number", str: "a text", bool: "true or false"}
    return _expect(lambda value: type(value) is kind, names[kind])  # a bool is no int here


def _expect(fits: Callable[[Any], bool], allowed: str) -> Reader:
    def read(value: Any) -> Any:
        if not fits(value):
            raise ValueError(f"is {_short(value)}, expected {allowed}")
        return value

    return read


def _limited(inner: Reader, limit: range | str) -> Reader:
    if isinstance(limit, str):
        pattern = re.compile(limit)
        check = _expect(lambda value: pattern.fullmatch(value) is not None, f"a text like {limit}")
    else:
        check = _expect(lambda value: value in limit, f"{limit.start} to {limit.stop - 1}")
    return lambda value: check(inner(value))


def _tuple_reader(arguments: tuple[Any, ...]) -> Reader:
    check = _expect(lambda value: isinstance(value, list | tuple), "a list")
    if arguments[-1] is Ellipsis:
        inner = _reader(arguments[0])
        return lambda value: tuple([_at(number, inner, row) for number, row in enumerate(check(value))])
    inners = [_reader(argument) for argument in arguments]
    right = _expect(lambda value: len(value) == len(inners), f"a list of {len(inners)}")
    return lambda value: tuple(inner(row) for inner, row in zip(inners, right(check(value)), strict=True))


def _dataclass_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    readers = {row.name: _reader(hints[row.name]) for row in fields(kind)}
    needed = {row.name for row in fields(kind) if row.default is MISSING and row.default_factory is MISSING}
    check = _expect(lambda value: isinstance(value, dict), "an object")

    def read(value: Any) -> Any:
        stated = check(value)
        if not needed <= stated.keys() <= readers.keys():
            unknown = sorted(stated.keys() - readers.keys())
            raise ValueError(f"{unknown[0]} is unknown" if unknown else f"{min(needed - stated.keys())} is not there")
        return kind(**{name: _at(name, readers[name], row) for name, row in stated.items()})

    return read


def _at(name: str | int, inner: Reader, value: Any) -> Any:
    """Read a part; an error names the way to it."""
    try:
        return inner(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}" if str(error).startswith("is ") else f"{name}.{error}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
