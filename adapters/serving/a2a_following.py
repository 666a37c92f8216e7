"""What a task at an A2A agent says until it ends: pieces of its artifacts, and how it ended. Pure; JSON only."""

from __future__ import annotations

from itertools import groupby
from typing import Final, final

from dragoman.adapters.serving.a2a_forms import FormError, JsonObject, answer_of, as_json, member, objects
from dragoman.adapters.serving.answers import Answer
from dragoman.routing.refusals import Reason, Refusal

COMPLETED: Final = "TASK_STATE_COMPLETED"
CANCELED: Final = "TASK_STATE_CANCELED"
FAILED: Final = ("TASK_STATE_FAILED", "TASK_STATE_REJECTED", CANCELED)
ASKING: Final = ("TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED")

PARTIAL: Final = "partial"
"""In a part's metadata: it was told on the way and is none of the answer. So a mesh marks its partial answers."""

CONTENT_BYTES_MAX: Final = 32 << 20
"""Of all artifacts of a task, which are held until it ends."""

_REASONS: Final = {reason.value: reason for reason in Reason}


@final
class Following:
    """One task. ``take`` and ``snapshot`` until it has ``ended``; ``asks``: it waits for more than a call can say."""

    __slots__ = ("_appended", "_artifacts", "_held", "_size", "_sizes", "asks", "ended", "task")

    def __init__(self) -> None:
        self.task = ""
        self.ended: Answer | None = None
        self.asks = False
        self._artifacts: dict[str, list[JsonObject]] = {}
        self._sizes: dict[str, int] = {}
        self._size = 0
        self._appended: set[str] = set()
        #: the newest piece: a part of the answer if another comes, all of it if none does
        self._held: Answer | None = None

    def take(self, item: object) -> list[Answer]:
        """Takes one item of a stream, or a whole response; the pieces that are partial answers."""
        if not isinstance(item, dict):
            raise FormError("what it says of its task is no JSON object")
        if message := member(item, "message"):
            self.ended = answer_of(message.get("parts"))
        elif task := member(item, "task"):
            self.task = str(task.get("id") or "")
            self.snapshot(task)
        elif update := member(item, "artifactUpdate"):
            self.task = self.task or str(update.get("taskId") or "")
            return self._piece(update)
        elif update := member(item, "statusUpdate"):
            self.task = self.task or str(update.get("taskId") or "")
            self._state(member(update, "status"))
        return []

    def snapshot(self, task: object) -> None:
        """Takes a whole task: what its artifacts hold now is all they hold."""
        if not isinstance(task, dict):
            raise FormError("its task is no JSON object")
        given = objects(task.get("artifacts"))
        if given:
            self._held = None
            self._artifacts = {}
            for number, artifact in enumerate(given):
                name = str(artifact.get("artifactId") or number)
                self._artifacts[name] = _final(objects(artifact.get("parts")))
        self._state(member(task, "status"))

    def _piece(self, update: JsonObject) -> list[Answer]:
        artifact = member(update, "artifact")
        name = str(artifact.get("artifactId") or "")
        parts = objects(artifact.get("parts"))
        final = _final(parts)
        told: list[Answer | None] = []
        if len(final) < len(parts):
            told.append(answer_of([part for part in parts if _is_partial(part)]))
        if final:
            told.insert(0, self._held)
            self._held = None
            known = self._artifacts.get(name) if update.get("append") is True else None
            self._measure(name, final, more=known is not None)
            if known is None:
                self._artifacts[name] = final
                self._held = answer_of(final)
            else:
                known += final
                self._appended.add(name)
                told.append(answer_of(final))
        return [piece for piece in told if piece is not None and piece.failure is None and piece.payload]

    def _measure(self, name: str, parts: list[JsonObject], *, more: bool) -> None:
        before = self._sizes.get(name, 0)
        self._sizes[name] = (before if more else 0) + len(as_json(parts)) + len(name)
        self._size += self._sizes[name] - before
        if self._size > CONTENT_BYTES_MAX:
            raise FormError(f"the artifacts of its task have more than {CONTENT_BYTES_MAX} bytes")

    def _state(self, status: JsonObject) -> None:
        state = status.get("state")
        if state == COMPLETED:
            self.ended = self._answer(member(status, "message"))
        elif state in FAILED:
            self.ended = Answer(b"", failure=_failure(str(state), member(status, "message")))
        elif state in ASKING:
            self.asks = True
            why = f"the agent asks back ({state}), and a call cannot answer: {_said(member(status, 'message'))}"
            self.ended = Answer(b"", failure=Refusal(Reason.FAILED, why.removesuffix(": ")))

    def _answer(self, message: JsonObject) -> Answer:
        parts: list[JsonObject] = []
        for name, held in self._artifacts.items():
            parts += _joined(held) if name in self._appended else held
        return answer_of(parts or message.get("parts"))


def _final(parts: list[JsonObject]) -> list[JsonObject]:
    return [part for part in parts if not _is_partial(part)]


def _is_partial(part: JsonObject) -> bool:
    return member(part, "metadata").get(PARTIAL) is True


def _joined(parts: list[JsonObject]) -> list[JsonObject]:
    """Texts that came one after the other are one text, as the agent wrote it piece by piece."""
    joined: list[JsonObject] = []
    for (texts, _), run in groupby(parts, lambda part: (isinstance(part.get("text"), str), part.get("mediaType"))):
        same = list(run)
        joined += [{**same[0], "text": "".join([part["text"] for part in same])}] if texts else same
    return joined


def _failure(state: str, message: JsonObject) -> Refusal:
    named = member(message, "metadata").get("reason")
    usual = Reason.CANCELLED if state == CANCELED else Reason.FAILED
    reason = _REASONS.get(named, usual) if isinstance(named, str) else usual
    return Refusal(reason, _said(message) or f"the task ended as {state}")


def _said(message: JsonObject) -> str:
    return answer_of(message.get("parts")).payload.decode(errors="replace")[:1000]
