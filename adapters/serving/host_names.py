"""Host names a certificate is for, and which certificate a name gets. Knows no handshake."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Final, Generic, TypeVar, final

T = TypeVar("T")

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")

_SUBJECT_ALTERNATIVE_NAME: Final = bytes.fromhex("551d11")
"""2.5.29.17 (RFC 5280 §4.2.1.6)."""
_EXTENSIONS: Final = 0xA3
_DNS_NAME: Final = 0x82


def host_problem(host: str) -> str | None:
    """Why nobody can ask for this name, in a sentence; None if they can. ``*.`` at its beginning is any one label."""
    if _HOST.fullmatch(host) and len(host) <= 253:
        return None
    return f"{host!r} is no host name: small letters, digits and '-' between dots, with '*.' at most at its beginning"


def certificate_hosts(pem: str) -> tuple[str, ...]:
    """The DNS names of the first certificate of a file that OpenSSL has read, as the certificate says them.

    The common name is none of them: nobody has gone by it since RFC 6125.
    """
    found = _PEM.search(pem)
    if found is None:
        return ()
    (certificate,) = _items(base64.b64decode(found.group(1)))
    signed, *_ = _items(certificate[1])
    names: list[str] = []
    for kind, extensions in _items(signed[1]):
        if kind != _EXTENSIONS:
            continue
        (sequence,) = _items(extensions)
        for _, extension in _items(sequence[1]):
            (_, what), *_, (_, value) = _items(extension)
            if what == _SUBJECT_ALTERNATIVE_NAME:
                (alternatives,) = _items(value)
                names += [text.decode("latin-1") for tag, text in _items(alternatives[1]) if tag == _DNS_NAME]
    return tuple(name.lower() for name in names)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What a DER value is made of: tags and contents."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        yield tag, data[at : at + length]
        at += length


@final
class HostNames(Generic[T]):
    """What each name gets: the first that was added for it, and one that names it in full before a wildcard."""

    def __init__(self) -> None:
        self._found: dict[str, T] = {}

    def add(self, hosts: tuple[str, ...], what: T) -> None:
        """These names get this, unless they get something already."""
        for host in hosts:
            self._found.setdefault(host, what)

    def find(self, host: str) -> T | None:
        """What a client that asks for this name gets. A wildcard stands for one label (RFC 6125 §6.4.3)."""
        name = host.lower().removesuffix(".")
        return self._found.get(name) or self._found.get("*." + name.partition(".")[2])
