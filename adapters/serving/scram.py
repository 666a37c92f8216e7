"""SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): messages in, messages out; no socket, no clock.

The server keeps no password and nothing from which a client could log in: a salt, and two keys of which
the stored one checks a proof and the other proves to the client that it talks to who knows it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Final, NamedTuple, final

from dragoman.adapters.serving.saslprep import saslprep
from dragoman.routing.refusals import Reason, Refusal

SCRAM_SHA_256: Final = "SCRAM-SHA-256"

ITERATIONS: Final = 4_096
"""What RFC 7677 asks for at least, and Kafka, EMQX and PostgreSQL use: the client pays for them, and may be small."""

ITERATIONS_MAX: Final = 1_000_000
"""A configured verifier with more would keep a client busy for seconds."""

MESSAGE_BYTES_MAX: Final = 4_096
"""A message of a client's: a name, a nonce and an authorization id. Longer ones are not looked at."""

WRONG: Final = "the user name or the password is wrong"

_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 16
_BASE64: Final = "[A-Za-z0-9+/=]+"
_VERIFIER: Final = re.compile(rf"SCRAM-SHA-256\$([0-9]{{1,7}}):({_BASE64})\$({_BASE64}):({_BASE64})")
_PRINTABLE: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z]=[^\0,]+")
_HEADER: Final = re.compile(r"(n|y|p=[A-Za-z0-9.-]+),(?:a=([^\0,]+))?,")


class Verifier(NamedTuple):
    """What is kept of a password."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        """As it is configured; the form is RFC 5803's, and PostgreSQL's."""
        salt, stored, server = (base64.b64encode(part).decode() for part in self[1:])
        return f"{SCRAM_SHA_256}${self.iterations}:{salt}${stored}:{server}"


def verifier_of(password: bytes, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> Verifier:
    """The verifier of a password, with a fresh salt if none is given. Raises ValueError for what could not be used."""
    try:
        prepared = saslprep(password.decode())
    except UnicodeDecodeError:
        raise ValueError("a password for SCRAM is text in UTF-8") from None
    if not prepared:
        raise ValueError("an empty password protects nothing")
    if salt is None:
        salt = secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", prepared.encode(), salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    return Verifier(iterations, salt, stored, _hmac(salted, b"Server Key"))


def parse_verifier(text: str) -> Verifier | None:
    """A configured verifier in its parts, or None if it is none."""
    found = _VERIFIER.fullmatch(text)
    if found is None or not ITERATIONS <= int(found[1]) <= ITERATIONS_MAX:
        return None
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in found.groups()[1:])
    except binascii.Error:
        return None
    sizes = 8 <= len(salt) <= 64 and len(stored) == len(server) == _KEY_BYTES
    return Verifier(int(found[1]), salt, stored, server) if sizes else None


def verifier_problem(text: str) -> str | None:
    """Why a configured verifier cannot be used. Does not repeat it, since it may be a plain password."""
    if parse_verifier(text) is not None:
        return None
    return (
        f"this is no {SCRAM_SHA_256} verifier of {ITERATIONS} to {ITERATIONS_MAX} iterations; "
        "make one with `dragoman password --scram`"
    )


def decoy(name: str, secret: bytes, like: Verifier) -> Verifier:
    """The verifier of a user there is not: always the same, and nobody has its password.

    A stranger who asks twice for the salt of a name learns nothing from it (RFC 5802 §5.1).
    """

    def derived(what: bytes, size: int) -> bytes:
        return hashlib.blake2b(name.encode(), key=secret, person=what, digest_size=size).digest()

    return Verifier(like.iterations, derived(b"salt", len(like.salt)), derived(b"stored", 32), derived(b"server", 32))


@final
class ScramServer:
    """One login. ``step`` takes the client's messages in turn: first, final.

    ``user``      whom the client claims to be, once it has said so
    ``verifier``  what its proof is checked against
    ``proven``    whether it is true, which the last message to the client says too
    """

    __slots__ = ("_auth", "_find", "_header", "_nonce", "_own", "proven", "user", "verifier")

    def __init__(self, find: Callable[[str], Verifier], nonce: str = "") -> None:
        """``find`` gives a user's verifier, a decoy if there is no such user; ``nonce`` is drawn if not given."""
        self._find = find
        self._nonce = nonce or secrets.token_urlsafe(18)
        self._header = ""
        self._own = ""
        self._auth = ""
        self.user = ""
        self.verifier: Verifier | None = None
        self.proven = False

    def step(self, data: bytes) -> bytes | Refusal:
        """What to say to the client's message. After a refusal, or once ``proven``, the login is over."""
        assert not self.proven, "a login goes on after its end"
        if len(data) > MESSAGE_BYTES_MAX:
            return _no(f"a message has at most {MESSAGE_BYTES_MAX} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return _no("a message is not UTF-8")
        return self._first(text) if self.verifier is None else self._final(text, self.verifier)

    def _first(self, text: str) -> bytes | Refusal:
        """``n,[a=authzid],n=user,r=nonce[,extensions]``. One that must be known (``m=``) would come before the name."""
        header = _HEADER.match(text)
        if header is None:
            return _no("the first message does not begin with a GS2 header")
        if header[1].startswith("p"):
            return _no("channel binding is not offered here")
        bare = text[header.end() :]
        name, _, rest = bare.partition(",")
        nonce, *extensions = rest.split(",")
        if not name.startswith("n=") or not nonce.startswith("r=") or not _PRINTABLE.fullmatch(nonce[2:]):
            return _no("the first message does not say a name and a nonce")
        if not all(map(_ATTRIBUTE.fullmatch, extensions)):
            return _no("the first message has an extension of no form")
        user = _name(name[2:])
        if isinstance(user, Refusal):
            return user
        if header[2] is not None and _name(header[2]) != user:
            return _no("nobody acts for somebody else here: no authorization id")
        self.user = user
        self._header = header[0]
        self._own = nonce[2:]
        self._nonce = self._own + self._nonce
        verifier = self.verifier = self._find(user)
        salt = base64.b64encode(verifier.salt).decode()
        challenge = f"r={self._nonce},s={salt},i={verifier.iterations}"
        self._auth = f"{bare},{challenge}"
        return challenge.encode()

    def _final(self, text: str, verifier: Verifier) -> bytes | Refusal:
        """``c=header in base64,r=both nonces[,extensions],p=proof in base64``."""
        said, _, proof = text.rpartition(",p=")
        binding, _, rest = said.partition(",")
        nonce, *extensions = rest.split(",")
        if not all(map(_ATTRIBUTE.fullmatch, extensions)):
            return _no("the final message has an extension of no form")
        if binding != "c=" + base64.b64encode(self._header.encode()).decode():
            return _no("the final message does not repeat the GS2 header")
        # librdkafka before 2.6.1 (so Debian's kcat) puts its own nonce before both. Ours is in it, and it is signed:
        # as fresh as RFC 5802 wants it, though not in its words.
        if nonce not in ("r=" + self._nonce, "r=" + self._own + self._nonce):
            return _no("the final message does not repeat the nonces")
        try:
            given = base64.b64decode(proof, validate=True)
        except ValueError:
            given = b""
        if len(given) != _KEY_BYTES:
            return _no("the proof is not 32 bytes in base64")
        auth = f"{self._auth},{said}".encode()
        signature = _hmac(verifier.stored_key, auth)
        key = bytes(a ^ b for a, b in zip(given, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(key).digest(), verifier.stored_key):
            return Refusal(Reason.NOT_AUTHENTICATED, WRONG)
        self.proven = True
        return b"v=" + base64.b64encode(_hmac(verifier.server_key, auth))


def _name(said: str) -> str | Refusal:
    """A name as users are configured: '=2C' is a comma, '=3D' an equals sign."""
    plain = said.replace("=2C", ",").replace("=3D", "=")
    if said.count("=") != said.count("=2C") + said.count("=3D"):
        return _no("an equals sign in a name is written =3D")
    try:
        return saslprep(plain) or _no("the name is empty")
    except ValueError as error:
        return _no(f"the name cannot be used: {error}")


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _no(why: str) -> Refusal:
    return Refusal(Reason.NOT_AUTHENTICATED, f"{SCRAM_SHA_256}: {why}")
