"""Logins that go to and fro (SASL), for every protocol that has them. At once: nothing in them is slow to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, final

from dragoman.adapters.serving.oauthbearer import parse_bearer
from dragoman.adapters.serving.scram import ScramServer
from dragoman.broker.principal import Principal
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.serving.credentials import Authenticator


class Proven(NamedTuple):
    """The end of a login that succeeded: who it is, and what the client is told with it."""

    principal: Principal
    data: bytes


class Login(Protocol):
    """One login of one client."""

    def step(self, data: bytes) -> bytes | Proven | Refusal:
        """What to say to the client's message. After ``Proven`` or a refusal it is over."""


@final
class ScramLogin:
    """SCRAM-SHA-256: two messages."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._server = ScramServer(authenticator.verifier)

    def step(self, data: bytes) -> bytes | Proven | Refusal:
        """See ``Login``."""
        said = self._server.step(data)
        if isinstance(said, Refusal):
            return _end(self._authenticator.told(said), b"")
        if not self._server.proven:
            return said
        assert self._server.verifier is not None, "nothing is proven without one"
        outcome = self._authenticator.proven(self._server.user, self._server.verifier)
        return _end(self._authenticator.told(outcome), said)


@final
class BearerLogin:
    """OAUTHBEARER: one message."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def step(self, data: bytes) -> Proven | Refusal:
        """See ``Login``."""
        said = parse_bearer(data)
        outcome = said if isinstance(said, Refusal) else self._authenticator.bearer(said.token, said.acting_as)
        return _end(self._authenticator.told(outcome), b"")


def _end(outcome: Principal | Refusal, data: bytes) -> Proven | Refusal:
    return Proven(outcome, data) if isinstance(outcome, Principal) else outcome
