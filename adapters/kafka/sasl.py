"""Who a Kafka client is: SASL over the same users as everywhere else (KIP-43, KIP-152).

PLAIN (RFC 4616) is here; the mechanisms that go to and fro are the authenticator's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_data import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)
from dragoman.adapters.serving.credentials import Credentials
from dragoman.adapters.serving.logins import Login, Proven
from dragoman.broker.principal import Principal
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask

PLAIN: Final = "PLAIN"


def handshake(ask: Ask) -> None:
    """The client names a mechanism."""
    request = ask.request
    assert isinstance(request, SaslHandshakeRequest)
    session = ask.session
    offered = [PLAIN, *session.realm.authenticator.mechanisms]
    if request.mechanism not in offered:
        ask.answer(SaslHandshakeResponse(error_code=ErrorCode.UNSUPPORTED_SASL_MECHANISM, mechanisms=offered))
        return
    session.mechanism = request.mechanism
    session.login = session.realm.authenticator.begin(request.mechanism)
    ask.answer(SaslHandshakeResponse(mechanisms=offered))


def authenticate(ask: Ask) -> None:
    """The client's message in the mechanism it has named."""
    request = ask.request
    assert isinstance(request, SaslAuthenticateRequest)
    session = ask.session
    if session.mechanism is None:
        ask.answer(_no(ErrorCode.ILLEGAL_SASL_STATE, "name a mechanism first (SaslHandshake)"))
        return
    if session.login is not None:
        _step(ask, session.login, bytes(request.auth_bytes))
        return
    session.mechanism = None
    _plain(ask, bytes(request.auth_bytes))


def _step(ask: Ask, login: Login, data: bytes) -> None:
    """One message of a login in steps; the same mechanism goes on until it ends."""
    session = ask.session
    said = login.step(data)
    if isinstance(said, bytes):
        ask.answer(SaslAuthenticateResponse(auth_bytes=said))
        return
    session.mechanism = session.login = None
    refusal = session.admit(said.principal) if isinstance(said, Proven) else said
    if refusal is not None:
        ask.answer(_no(ErrorCode.SASL_AUTHENTICATION_FAILED, refusal.detail))
    elif isinstance(said, Proven):
        ask.answer(SaslAuthenticateResponse(auth_bytes=said.data))


def _plain(ask: Ask, data: bytes) -> None:
    """``[authzid] NUL user NUL password``."""
    session = ask.session
    try:
        acting_as, user, password = data.split(b"\0")
        credentials = Credentials(user.decode(), password, None, session.loopback)
    except ValueError:
        ask.answer(_no(ErrorCode.SASL_AUTHENTICATION_FAILED, "PLAIN is: authorization id, NUL, user, NUL, password"))
        return
    if acting_as not in (b"", user):
        ask.answer(_no(ErrorCode.SASL_AUTHENTICATION_FAILED, "nobody acts for somebody else here: no authorization id"))
        return

    def checked(outcome: Principal | Refusal) -> None:
        if session.closing:
            return
        refusal = session.admit(outcome) if isinstance(outcome, Principal) else outcome
        if refusal is not None:
            ask.answer(_no(ErrorCode.SASL_AUTHENTICATION_FAILED, refusal.detail))
        else:
            ask.answer(SaslAuthenticateResponse(auth_bytes=b""))
        session.busy(False)

    session.busy(True)
    session.realm.authenticator.check(credentials, checked)


def _no(code: ErrorCode, why: str) -> SaslAuthenticateResponse:
    return SaslAuthenticateResponse(error_code=code, error_message=why)
