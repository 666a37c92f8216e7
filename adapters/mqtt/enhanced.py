"""Enhanced authentication: AUTH packets before CONNACK, and again in the middle of a session (§4.12).

The methods are SASL mechanisms under their registered names; what they say and who is let in is the
authenticator's. What follows from it for a CONNECT is in ``handshake``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

from dragoman.adapters.mqtt import codes, mapping
from dragoman.adapters.mqtt.codes import Code, ProtocolError
from dragoman.adapters.mqtt.encoders import encode_auth
from dragoman.adapters.mqtt.packets import Auth, Disconnect, Packet
from dragoman.adapters.mqtt.phase import Phase
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.serving.logins import Login
from dragoman.broker.principal import Principal
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession

Answer: TypeAlias = Principal | tuple[int, str] | None
"""Who it is; or the code and the words to refuse it with; or None while it goes on."""


@final
class Enhanced:
    """What a connection whose CONNECT named a method remembers of it.

    ``login``  the exchange under way, None between two
    ``data``   what the client is told with its success; None: nothing
    """

    __slots__ = ("data", "login", "method")

    def __init__(self, method: str, login: Login) -> None:
        self.method = method
        self.login: Login | None = login
        self.data: bytes | None = None


def begin(session: MqttSession, properties: Properties) -> Answer:
    """CONNECT names a method, and may have the client's first data with it."""
    method = properties.authentication_method
    assert method is not None
    login = session.realm.authenticator.begin(method)
    if login is None:
        return Code.BAD_AUTHENTICATION_METHOD, f"the authentication method {method[:64]!r} is not offered here"
    session.enhanced = Enhanced(method, login)
    return _open(session, session.enhanced, login, properties.authentication_data)


def take(session: MqttSession, enhanced: Enhanced, packet: Packet) -> Answer:
    """A packet that came before the CONNACK: AUTH goes on, DISCONNECT ends it, no other may come [3.1.2-30]."""
    if isinstance(packet, Disconnect):
        session.phase = Phase.CLOSED
        session.closing = True
        session.wire.wake()
        return None
    if not isinstance(packet, Auth) or packet.code != Code.CONTINUE_AUTHENTICATION:
        return Code.PROTOCOL_ERROR, "before the CONNACK comes AUTH 0x18 or DISCONNECT, and nothing else [3.1.2-30]"
    if packet.properties.authentication_method != enhanced.method:
        return Code.BAD_AUTHENTICATION_METHOD, f"CONNECT named the method {enhanced.method!r} [4.12.0-5]"
    if enhanced.login is None:
        # Who it is is known. What its CONNECT asks for may still wait for the disk.
        return Code.PROTOCOL_ERROR, "AUTH 0x18 that continues no authentication"
    return _step(session, enhanced, enhanced.login, packet.properties.authentication_data or b"")


def again(session: MqttSession, packet: Auth) -> None:
    """AUTH of an open connection: the client shows once more who it is, while everything goes on (§4.12.1)."""
    enhanced = session.enhanced
    if enhanced is None:
        session.fail(ProtocolError(Code.PROTOCOL_ERROR, "AUTH without an authentication method in CONNECT [4.12.0-6]"))
        return
    if packet.properties.authentication_method != enhanced.method:
        said = f"CONNECT named the method {enhanced.method!r} [4.12.1-1]"
        session.fail(ProtocolError(Code.BAD_AUTHENTICATION_METHOD, said))
        return
    if (packet.code == Code.RE_AUTHENTICATE) is (enhanced.login is not None):
        said = "AUTH 0x19 within an authentication, or AUTH 0x18 that continues none"
        session.fail(ProtocolError(Code.PROTOCOL_ERROR, said))
        return
    answer = _go_on(session, enhanced, packet.properties.authentication_data)
    if isinstance(answer, Principal) and answer.name != session.principal.name:
        answer = (Code.NOT_AUTHORIZED, f"the connection belongs to {session.principal.name!r}, not to another user")
    if isinstance(answer, Principal):
        session.send(encode_auth(Code.SUCCESS, _properties(enhanced, enhanced.data)))
    elif answer is not None:
        session.realm.say("mqtt client is not who it was: %s", answer[1], session)
        session.end(*answer)


def _go_on(session: MqttSession, enhanced: Enhanced, data: bytes | None) -> Answer:
    if enhanced.login is not None:
        return _step(session, enhanced, enhanced.login, data or b"")
    enhanced.login = session.realm.authenticator.begin(enhanced.method)
    if enhanced.login is None:
        return Code.NOT_AUTHORIZED, "nobody can log in by this method any more"
    return _open(session, enhanced, enhanced.login, data)


def _open(session: MqttSession, enhanced: Enhanced, login: Login, data: bytes | None) -> Answer:
    if data:
        return _step(session, enhanced, login, data)
    return _ask(session, enhanced, None)


def _step(session: MqttSession, enhanced: Enhanced, login: Login, data: bytes) -> Answer:
    said = login.step(data)
    if isinstance(said, bytes):
        return _ask(session, enhanced, said)
    enhanced.login = None
    if isinstance(said, Refusal):
        return _code(session, said), said.detail
    enhanced.data = said.data or None
    return said.principal


def _ask(session: MqttSession, enhanced: Enhanced, data: bytes | None) -> Answer:
    """The client's turn."""
    frame = encode_auth(Code.CONTINUE_AUTHENTICATION, _properties(enhanced, data))
    if len(frame) > session.packet_max:
        return Code.PACKET_TOO_LARGE, "the client takes no packet as large as this authentication needs [3.1.2-24]"
    session.send(frame)
    return None


def _properties(enhanced: Enhanced, data: bytes | None) -> Properties:
    return Properties(authentication_method=enhanced.method, authentication_data=data)


def _code(session: MqttSession, refusal: Refusal) -> int:
    """0x87 for whoever is not who it says, in CONNACK and DISCONNECT alike: 0x86 speaks of CONNECT's own password."""
    if refusal.reason is Reason.NOT_AUTHENTICATED:
        return Code.NOT_AUTHORIZED
    return mapping.code_for(codes.CONNACK if session.phase is Phase.CHECKING else codes.DISCONNECT, refusal.reason)
