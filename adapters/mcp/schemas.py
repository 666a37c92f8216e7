"""Checking JSON values against the schemas of skills, which come from strangers: bounded, offline, no surprises.

A schema may be written so that checking takes for ever (references that double, patterns that backtrack, long
lists of alternatives), or so that it reads other people's files. So nothing is fetched, every step is counted, and
regular expressions are left to whoever serves the skill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, final

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import SchemaError, ValidationError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from referencing import Registry
from referencing.exceptions import Unresolvable

from dragoman.adapters.mcp.kernel import JsonObject

STEPS_MAX: Final = 20_000
"""Keywords tried in one check, long lists counting more: about a tenth of a second."""

FAULTS_SHOWN: Final = 5

_UNCHECKED: Final = ("pattern", "patternProperties", "format")
_CLOSED_WORLD: Final = ("additionalProperties", "unevaluatedProperties")

_Check = Callable[[Any, Any, Any, Any], "Iterator[ValidationError] | None"]


class SchemaFaultError(Exception):
    """The schema itself cannot be used."""


class _TooLongError(Exception):
    """A check took more steps than it may."""


@final
class SchemaCheck:
    """One schema, ready to check values. Raises SchemaFaultError if it is none."""

    __slots__ = ("_steps", "_validator")

    def __init__(self, schema: JsonObject, bytes_max: int) -> None:
        text = json.dumps(schema)
        if len(text) > bytes_max:
            raise SchemaFaultError(f"it has {len(text)} bytes, at most {bytes_max} are read")
        self._steps = 0
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise SchemaFaultError(f"{error.json_path}: {error.message[:200]}") from error
        except RecursionError as error:
            raise SchemaFaultError("it is nested too deeply") from error
        # Property names that only a pattern allows would be forbidden by these once patterns are not looked at.
        closed = _CLOSED_WORLD if '"patternProperties"' in text else ()
        kind = self._counted(Draft202012Validator, (*_UNCHECKED, *closed))
        self._validator = kind(schema, registry=Registry())

    def faults(self, value: object) -> list[str]:
        """What is wrong with a value, in sentences; empty if nothing is."""
        self._steps = 0
        found: list[str] = []
        try:
            for error in self._validator.iter_errors(value):
                found.append(f"{error.json_path}: {error.message[:300]}")
                if len(found) == FAULTS_SHOWN:
                    break
        except _TooLongError:
            return ["it takes too long to check against the schema"]
        except RecursionError:
            return ["it, or its schema, is nested too deeply to check"]
        except Unresolvable as error:
            return [f"the schema refers to {error.ref!r}, which is not in it"]
        return found

    def _counted(self, kind: Any, unchecked: tuple[str, ...]) -> Any:
        checks = {word: self._count(check) for word, check in kind.VALIDATORS.items() if word not in unchecked}
        return extend(kind, {**checks, **dict.fromkeys(unchecked, _nothing)})

    def _count(self, check: _Check) -> _Check:
        def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
            self._steps += _cost(value, instance)
            if self._steps > STEPS_MAX:
                raise _TooLongError
            return check(validator, value, instance, schema)

        return counted


def _cost(value: Any, instance: Any) -> int:
    """Steps of one keyword: lists of alternatives are tried one by one, unique items in the worst case pairwise."""
    if value is True and isinstance(instance, list):
        return 1 + len(instance) * len(instance) // 1000
    return 1 + len(value) // 8 if isinstance(value, list) else 1


def _nothing(validator: Any, value: Any, instance: Any, schema: Any) -> None:
    return None
