"""How a class says its form on the wire: each field its type, and the versions that have it. Compiled per version.

Kafka's messages grow by version: fields come and go, from the first *flexible* version on lengths are compact
and every structure ends with tagged fields that whoever does not know them skips.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple, final

from dragoman.adapters.kafka.wire import Cursor, Output, Records, WireError

__all__ = [
    "BOOL",
    "BYTES",
    "FLOAT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "RECORDS",
    "STRING",
    "UINT16",
    "UUID",
    "Field",
    "Form",
    "Records",
    "f",
    "fields_of",
    "form_of",
    "many",
]

Read = Callable[[Cursor], Any]
Write = Callable[[Output, Any], None]

LATEST: Final = 99
_KEY: Final = "kafka"


@final
class Kind:
    """A primitive type."""

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: object) -> None:
        self.name = name
        self.default = default


BOOL: Final = Kind("boolean", default=False)
INT8: Final = Kind("int8", 0)
INT16: Final = Kind("int16", 0)
UINT16: Final = Kind("uint16", 0)
INT32: Final = Kind("int32", 0)
INT64: Final = Kind("int64", 0)
FLOAT64: Final = Kind("float64", 0.0)
UUID: Final = Kind("uuid", uuid.UUID(int=0))
STRING: Final = Kind("string", "")
BYTES: Final = Kind("bytes", b"")
RECORDS: Final = Kind("records", None)

_LENGTHY: Final = (STRING, BYTES, RECORDS)


class Field(NamedTuple):
    """One field. ``null``: the version from which it may be null; ``tagged``: from which its tag carries it."""

    kind: Kind | type
    array: bool
    since: int
    until: int
    null: int
    tag: int
    tagged: int

    def there(self, version: int) -> bool:
        """Whether a version has it."""
        return self.since <= version <= self.until


_UNSET: Final = object()


def f(
    kind: Kind | type,
    *,
    since: int = 0,
    until: int = LATEST,
    null: int = LATEST,
    tag: int = -1,
    tagged: int = 0,
    default: object = _UNSET,
) -> Any:
    """A field of one value: a primitive or a class of this form. Where its version is not, it has its default."""
    metadata = {_KEY: Field(kind, False, since, until, null, tag, tagged)}
    if default is _UNSET and isinstance(kind, type):
        return dataclasses.field(default_factory=kind, metadata=metadata)
    if default is _UNSET:
        assert isinstance(kind, Kind)
        default = kind.default
    return dataclasses.field(default=default, metadata=metadata)


def many(
    kind: Kind | type,
    *,
    since: int = 0,
    until: int = LATEST,
    null: int = LATEST,
    tag: int = -1,
    tagged: int = 0,
    default: object = _UNSET,
) -> Any:
    """A field that is an array. Empty by default, never null unless asked for: null arrays trip Java's clients."""
    metadata = {_KEY: Field(kind, True, since, until, null, tag, tagged)}
    if default is _UNSET:
        return dataclasses.field(default_factory=list, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Form(NamedTuple):
    """How one class is read and written in one version."""

    read: Read
    write: Write


_fields: Final[dict[type, tuple[tuple[str, Field], ...]]] = {}
_forms: Final[dict[tuple[type, int, bool], Form]] = {}


def fields_of(shape: type) -> tuple[tuple[str, Field], ...]:
    """The fields of a class, in order."""
    known = _fields.get(shape)
    if known is None:
        known = _fields[shape] = tuple((field.name, field.metadata[_KEY]) for field in dataclasses.fields(shape))
    return known


def form_of(shape: type, version: int, flexible: bool) -> Form:
    """Compiled when first asked for; about thirty pairs are in use in practice."""
    form = _forms.get((shape, version, flexible))
    if form is None:
        form = _forms[shape, version, flexible] = _compiled(shape, version, flexible)
    return form


def _compiled(shape: type, version: int, flexible: bool) -> Form:
    plain: list[tuple[str, Form]] = []
    tags: dict[int, tuple[str, Form]] = {}
    for name, field in fields_of(shape):
        if not field.there(version):
            continue
        form = _field(field, version, flexible)
        if flexible and field.tag >= 0 and version >= field.tagged:
            tags[field.tag] = (name, form)
        elif field.tag < 0 or version < field.tagged:
            plain.append((name, form))
    return Form(_reader(shape, plain, tags, flexible), _writer(shape, plain, tags, flexible))


def _reader(shape: type, plain: list[tuple[str, Form]], tags: dict[int, tuple[str, Form]], flexible: bool) -> Read:
    steps = [(name, form.read) for name, form in plain]
    tagged = {tag: (name, form.read) for tag, (name, form) in tags.items()}

    def read(cursor: Cursor) -> Any:
        values = {name: step(cursor) for name, step in steps}
        if flexible:
            for _ in range(cursor.tags()):
                known = tagged.get(cursor.uvarint())
                content = cursor.take(cursor.uvarint())
                if known is not None:
                    values[known[0]] = known[1](Cursor(content))
        return shape(**values)

    return read


def _writer(shape: type, plain: list[tuple[str, Form]], tags: dict[int, tuple[str, Form]], flexible: bool) -> Write:
    steps = [(name, form.write) for name, form in plain]
    tagged = [(tag, name, form.write) for tag, (name, form) in sorted(tags.items())]

    def write(output: Output, value: Any) -> None:
        for name, step in steps:
            step(output, getattr(value, name))
        if not flexible:
            return
        said = []
        if tagged:
            usual = shape()
            said = [entry for entry in tagged if getattr(value, entry[1]) != getattr(usual, entry[1])]
        output.uvarint(len(said))
        for tag, name, step in said:
            inner = Output()
            step(inner, getattr(value, name))
            content = b"".join(inner.parts())
            output.uvarint(tag)
            output.uvarint(len(content))
            output.tail += content

    return write


def _field(field: Field, version: int, flexible: bool) -> Form:
    nullable = version >= field.null
    if field.array:
        return _array(_one(field.kind, version, flexible, nullable=False), flexible, nullable)
    return _one(field.kind, version, flexible, nullable=nullable)


def _one(kind: Kind | type, version: int, flexible: bool, *, nullable: bool) -> Form:
    if isinstance(kind, type):
        form = form_of(kind, version, flexible)
        return _nullable_struct(form) if nullable else form
    if kind in _LENGTHY:
        return _lengthy(kind, flexible, nullable or kind is RECORDS)
    return Form(_named(Cursor, kind.name), _named(Output, kind.name))


def _named(owner: type, name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(owner, name)
    return method


def _lengthy(kind: Kind, compact: bool, nullable: bool) -> Form:
    short = kind is STRING

    def read(cursor: Cursor) -> object:
        count = cursor.length(compact, short)
        if count < 0:
            if nullable:
                return None
            raise WireError("null where there has to be a value")
        if kind is STRING:
            return cursor.text(count)
        content = cursor.take(count)
        return bytes(content) if kind is BYTES else content

    def write(output: Output, value: Any) -> None:
        if value is None and nullable:
            output.length(-1, compact, short)
        elif kind is RECORDS:
            parts = [value] if isinstance(value, memoryview | bytes) else value or ()
            output.length(sum(map(len, parts)), compact, short)
            output.pass_through(parts)
        else:
            content = value.encode() if kind is STRING else value or b""
            output.length(len(content), compact, short)
            output.tail += content

    return Form(read, write)


def _array(item: Form, compact: bool, nullable: bool) -> Form:
    read_item, write_item = item

    def read(cursor: Cursor) -> object:
        count = cursor.items(compact)
        if count < 0:
            if nullable:
                return None
            raise WireError("a null array where there has to be one")
        return [read_item(cursor) for _ in range(count)]

    def write(output: Output, value: Any) -> None:
        if value is None and nullable:
            output.length(-1, compact, short=False)
            return
        items = value or ()
        output.length(len(items), compact, short=False)
        for entry in items:
            write_item(output, entry)

    return Form(read, write)


def _nullable_struct(form: Form) -> Form:
    def read(cursor: Cursor) -> object:
        return form.read(cursor) if cursor.int8() >= 0 else None

    def write(output: Output, value: Any) -> None:
        output.int8(-1 if value is None else 1)
        if value is not None:
            form.write(output, value)

    return Form(read, write)
