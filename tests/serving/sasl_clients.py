"""The clients' side of the logins in steps, written from the RFCs alone."""

from __future__ import annotations

import base64
import hashlib
import hmac


class ScramClient:
    """RFC 5802's client. ``first``, then ``final`` on the server's answer, then ``trusts`` its last word."""

    def __init__(self, user: str, password: str, nonce: str = "fyko+d2lbbFgONRv9qkxdawL", header: str = "n,,") -> None:
        self.header = header
        self.nonce = nonce
        self._password = password.encode()
        self._bare = "n=" + user.replace("=", "=3D").replace(",", "=2C") + ",r=" + nonce
        self._signature = b""

    def first(self) -> bytes:
        return (self.header + self._bare).encode()

    def final(self, challenge: bytes, *, nonce: str | None = None, header: str | None = None, more: str = "") -> bytes:
        said = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert said["r"].startswith(self.nonce)
        assert len(said["r"]) >= len(self.nonce) + 18
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(said["s"]), int(said["i"]))
        binding = base64.b64encode((self.header if header is None else header).encode()).decode()
        without = f"c={binding},r={said['r'] if nonce is None else nonce}{more}"
        auth = f"{self._bare},{challenge.decode()},{without}".encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), auth, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), auth, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return f"{without},p={base64.b64encode(proof).decode()}".encode()

    def trusts(self, last: bytes | None) -> bool:
        return last == b"v=" + base64.b64encode(self._signature)


def bearer(token: str, *, acting_as: str = "") -> bytes:
    """RFC 7628's one message."""
    return f"n,{acting_as and 'a=' + acting_as},\x01auth=Bearer {token}\x01\x01".encode()
