"""How a class says its form on the wire: each field its type, and the versions that have it. Compiled per version.

Kafka's messages grow by version: fields come and go, from the first *flexible* version on lengths are compact
and every structure ends with tagged fields that whoever does not know them skips.
"""

from __future__ import annotations

import dataclasses
import operator
import struct
import uuid
from collections.abc import Callable
from itertools import groupby
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
    """A primitive type; ``code`` is its format if it has a fixed width."""

    __slots__ = ("code", "default", "name")

    def __init__(self, name: str, default: object, code: str = "") -> None:
        self.name = name
        self.default = default
        self.code = code


BOOL: Final = Kind("boolean", default=False, code="?")
INT8: Final = Kind("int8", 0, "b")
INT16: Final = Kind("int16", 0, "h")
UINT16: Final = Kind("uint16", 0, "H")
INT32: Final = Kind("int32", 0, "i")
INT64: Final = Kind("int64", 0, "q")
FLOAT64: Final = Kind("float64", 0.0, "d")
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
    tags: dict[int, tuple[str, Form]] = {}
    plain: list[tuple[str, Field]] = []
    for name, field in fields_of(shape):
        if not field.there(version) or (field.tag >= 0 and version >= field.tagged):
            plain.append((name, field._replace(kind=_ABSENT)))
            if field.there(version) and flexible:
                tags[field.tag] = (name, _field(field, version, flexible))
        else:
            plain.append((name, field))
    runs = [_Run(shape, list(run), version, flexible) for _, run in groupby(plain, key=_width)]
    return Form(_reader(shape, runs, tags, flexible), _writer(shape, runs, tags, flexible))


_ABSENT: Final = Kind("absent", None)
"""Of a field that is not on the wire, or not here: its tag carries it."""


def _width(named: tuple[str, Field]) -> str:
    """What fields have in common that are read at once: fixed width, or not being there. Of others each is alone."""
    name, field = named
    if field.kind is _ABSENT:
        return " absent"
    return " fixed" if isinstance(field.kind, Kind) and field.kind.code and not field.array else name


class _Run:
    """Fields that are read and written at once: several of fixed width, several that are not there, or one other."""

    def __init__(self, shape: type, fields: list[tuple[str, Field]], version: int, flexible: bool) -> None:
        self.names = [name for name, _ in fields]
        self.absent = fields[0][1].kind is _ABSENT
        self.struct: struct.Struct | None = None
        if _width(fields[0]) == " fixed":
            kinds = [field.kind for _, field in fields]
            self.struct = struct.Struct(">" + "".join(kind.code for kind in kinds if isinstance(kind, Kind)))
        elif self.absent:
            declared = {field.name: field for field in dataclasses.fields(shape)}
            self.missing = [declared[name] for name in self.names]
        else:
            self.form = _field(fields[0][1], version, flexible)

    def step(self) -> Callable[[Cursor, list[Any]], None]:
        """Reads the values and puts them behind those that are there."""
        if self.struct is not None:
            layout = self.struct
            return lambda cursor, values: values.extend(cursor.unpack(layout))
        if self.absent:
            return _fill(self.missing)
        read = self.form.read
        return lambda cursor, values: values.append(read(cursor))

    def write(self) -> Callable[[Output, Any], None]:
        """Writes the values of a shape."""
        get = operator.attrgetter(*self.names)
        if self.struct is None:
            write = self.form.write
            return lambda output, value: write(output, get(value))
        pack = self.struct.pack
        if len(self.names) == 1:
            return lambda output, value: output.add(pack(get(value)))
        return lambda output, value: output.add(pack(*get(value)))


def _fill(missing: list[dataclasses.Field[Any]]) -> Callable[[Cursor, list[Any]], None]:
    """Puts what fields are by default behind the values that are there."""
    made = [None if each.default_factory is dataclasses.MISSING else each.default_factory for each in missing]
    if not any(made):
        defaults = [each.default for each in missing]
        return lambda cursor, values: values.extend(defaults)
    both = [(make, each.default) for make, each in zip(made, missing, strict=True)]
    return lambda cursor, values: values.extend([default if make is None else make() for make, default in both])


def _reader(shape: type, runs: list[_Run], tags: dict[int, tuple[str, Form]], flexible: bool) -> Read:
    places = {name: place for place, (name, _) in enumerate(fields_of(shape))}
    steps = [run.step() for run in runs]
    tagged = {tag: (places[name], form.read) for tag, (name, form) in tags.items()}

    def whole(cursor: Cursor) -> Any:
        values: list[Any] = []
        for step in steps:
            step(cursor, values)
        if flexible and (count := cursor.tags()):
            tags_of(cursor, count, values)
        return shape(*values)

    def tags_of(cursor: Cursor, count: int, values: list[Any]) -> None:
        for _ in range(count):
            known = tagged.get(cursor.uvarint())
            content = cursor.take(cursor.uvarint())
            if known is not None:
                values[known[0]] = known[1](Cursor(content))

    return whole


def _writer(shape: type, runs: list[_Run], tags: dict[int, tuple[str, Form]], flexible: bool) -> Write:
    steps = [run.write() for run in runs if not run.absent]
    usual = shape() if tags else None
    tagged = [(tag, name, getattr(usual, name), form.write) for tag, (name, form) in sorted(tags.items())]

    def whole(output: Output, value: Any) -> None:
        for step in steps:
            step(output, value)
        if tagged:
            tags_of(output, value)
        elif flexible:
            output.tail.append(0)

    def tags_of(output: Output, value: Any) -> None:
        said = [(tag, its, write) for tag, name, default, write in tagged if (its := getattr(value, name)) != default]
        output.uvarint(len(said))
        for tag, its, write in said:
            inner = Output()
            write(inner, its)
            content = b"".join(inner.parts())
            output.uvarint(tag)
            output.uvarint(len(content))
            output.tail += content

    return whole


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
    if kind is UUID:
        return Form(Cursor.uuid, Output.uuid)
    layout = struct.Struct(">" + kind.code)
    return Form(lambda cursor: cursor.unpack(layout)[0], lambda output, value: output.add(layout.pack(value)))


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
