"""Who a Kafka client is: SASL PLAIN over the same users as everywhere else (RFC 4616, KIP-43, KIP-152)."""

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
from dragoman.broker.principal import Principal
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask

PLAIN: Final = "PLAIN"


def handshake(ask: Ask) -> None:
    """The client names a mechanism."""
    request = ask.request
    assert isinstance(request, SaslHandshakeRequest)
    if request.mechanism != PLAIN:
        ask.answer(SaslHandshakeResponse(error_code=ErrorCode.UNSUPPORTED_SASL_MECHANISM, mechanisms=[PLAIN]))
        return
    ask.session.mechanism = PLAIN
    ask.answer(SaslHandshakeResponse(mechanisms=[PLAIN]))


def authenticate(ask: Ask) -> None:
    """``[authzid] NUL user NUL password``."""
    request = ask.request
    assert isinstance(request, SaslAuthenticateRequest)
    session = ask.session
    if session.mechanism is None:
        ask.answer(_no(ErrorCode.ILLEGAL_SASL_STATE, "name a mechanism first (SaslHandshake)"))
        return
    session.mechanism = None
    try:
        acting_as, user, password = bytes(request.auth_bytes).split(b"\0")
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
