"""Holds answers against the API's own description: an undocumented one fails, wherever it was seen."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema import Draft202012Validator

from dragoman.adapters.http.openapi import describe
from dragoman.adapters.http.routes import DEFINITIONS

FRAMEWORK = {404, 405}
"""What the framework answers where there is no such route at all."""


class Contract:
    """The description, and what has been seen of it."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = json.loads(json.dumps(describe(DEFINITIONS, "9.9")))
        self.seen: set[tuple[str, str, int, str]] = set()
        # Fixed paths before those with parameters, as the routes themselves are found.
        self._paths = [(path, _pattern(path)) for path in sorted(self.document["paths"], key=lambda p: "{" in p)]
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, method: str, path: str, status: int, content_type: str | None, body: bytes | None) -> None:
        """Fails if the answer is not documented. ``body`` None: not looked at."""
        operation, template = self._operation(method, path)
        kind = (content_type or "").partition(";")[0]
        if operation is None:
            assert method == "OPTIONS" or status in FRAMEWORK, f"{method} {path} is undocumented and answers {status}"
            return
        assert str(status) in operation["responses"], f"{method} {template} answers {status}, which is undocumented"
        content = operation["responses"][str(status)].get("content", {})
        self.seen.add((method, template, status, kind if kind in content else "*/*" if "*/*" in content else ""))
        if status in (101, 204) or (body == b"" and not content):
            assert not body
            return
        assert kind in content or "*/*" in content, f"{method} {template} answers {status} as {kind!r}: undocumented"
        if body is not None and kind in content and kind.endswith("json"):
            errors = list(self._validator(kind, content[kind]["schema"]).iter_errors(json.loads(body)))
            assert not errors, f"{method} {template} {status}: {errors[0].message[:300]} in {body[:300]!r}"

    def _operation(self, method: str, path: str) -> tuple[dict[str, Any] | None, str]:
        for template, pattern in self._paths:
            if pattern.fullmatch(path) and method.lower() in self.document["paths"][template]:
                return self.document["paths"][template][method.lower()], template
        return None, ""

    def _validator(self, kind: str, schema: dict[str, Any]) -> Draft202012Validator:
        key = json.dumps([kind, schema])
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = Draft202012Validator(whole)
        return self._validators[key]


def _pattern(path: str) -> re.Pattern[str]:
    tail = path.replace("/channels/{name}", "/channels/.+").replace("/bans/{kind}/{who}", "/bans/[^/]+/.+")
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", tail))
