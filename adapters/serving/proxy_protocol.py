"""The PROXY header that a relay sends before its client's bytes, versions 1 and 2. Sans-io: knows no socket.

What comes after the header is not the relay's any more (it may be TLS), so not one byte more may be read than
belongs to it: ``wanted`` says how many. The specification is HAProxy's ``doc/proxy-protocol.txt``, §2.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple, final

from crc32c import crc32c

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
LINE_BYTES_MAX: Final = 107
"""Version 1's own bound, with its end of line (§2.1)."""

HEADER_BYTES_MAX: Final = 4_096
"""Of version 2. Addresses take 216; the rest is for what a relay adds, of which a certificate's name is the longest."""

_LINE: Final = b"PROXY "
_FIXED: Final = struct.Struct("!BBH")
_IPV4: Final = struct.Struct("!4s4sHH")
_IPV6: Final = struct.Struct("!16s16sHH")
_UNIX: Final = struct.Struct("!108s108s")
_ADDRESSES: Final = {0x11: _IPV4, 0x21: _IPV6, 0x31: _UNIX}
"""Family and transport of version 2 (§2.2): streams only, since that is what comes here."""

_TLV_CRC32C: Final = 0x03
_TLV_SSL: Final = 0x20
_TLV_SSL_CN: Final = 0x22
_SSL_CERTIFICATE: Final = 0x02 | 0x04
"""The client has shown a certificate, on this connection or earlier in its TLS session (§2.2.5)."""


class ProxyError(Exception):
    """What came is no PROXY header. The text says what was seen."""


class ProxyHeader(NamedTuple):
    """What a relay says of the connection.

    ``own``     the relay speaks for itself (a health check): the connection is what it looks like
    ``host``    the client's address; "" if the relay does not know it, or if it came by a Unix socket (``unix``)
    ``common_name``  of the certificate that the client has shown to the relay and the relay has verified; else ""
    """

    own: bool = False
    host: str = ""
    port: int = 0
    unix: bool = False
    common_name: str = ""


@final
class ProxyReader:
    """Reads one header. ``feed`` it what was read, at most ``wanted`` bytes at a time, until ``header`` is there."""

    def __init__(self) -> None:
        self.wanted = len(SIGNATURE)
        self.header: ProxyHeader | None = None
        self._seen = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes bytes. Raises ProxyError as soon as they cannot begin a header; then it is of no more use."""
        assert self.header is None, "the header is whole"
        assert 0 < len(data) <= self.wanted, "more was read than the header has"
        self._seen += data
        seen = bytes(self._seen)
        if SIGNATURE.startswith(seen[: len(SIGNATURE)]):
            self._block(seen)
        elif _LINE.startswith(seen[: len(_LINE)]):
            self._line(seen)
        else:
            raise ProxyError(f"no PROXY header begins with {seen[:16]!r}")

    def _line(self, seen: bytes) -> None:
        if seen.endswith(b"\r\n"):
            self.wanted = 0
            self.header = _read_line(seen[:-2])
        elif b"\r" in seen[:-1] or b"\n" in seen:
            raise ProxyError("the line ends neither as it should nor where it should")
        elif len(seen) >= LINE_BYTES_MAX:
            raise ProxyError(f"the line is longer than {LINE_BYTES_MAX} bytes")
        else:
            # The first reading takes what the shortest line has for sure; then, never more than its end.
            self.wanted = max(len(SIGNATURE) - len(seen), 1 if seen.endswith(b"\r") else 2)
            self.wanted = min(self.wanted, LINE_BYTES_MAX - len(seen))

    def _block(self, seen: bytes) -> None:
        fixed = len(SIGNATURE) + _FIXED.size
        whole = fixed
        if len(seen) >= fixed:
            _, _, length = _FIXED.unpack_from(seen, len(SIGNATURE))
            whole = fixed + length
            if whole > HEADER_BYTES_MAX:
                raise ProxyError(f"the header has {whole} bytes, at most {HEADER_BYTES_MAX} are read")
        self.wanted = (len(SIGNATURE) if len(seen) < len(SIGNATURE) else whole) - len(seen)
        if len(seen) >= fixed and not self.wanted:
            self.header = _read_block(seen[len(SIGNATURE) :])


def _read_line(line: bytes) -> ProxyHeader:
    """Version 1 (§2.1)."""
    fields = line.split(b" ")
    if fields[1] == b"UNKNOWN":
        return ProxyHeader()
    if len(fields) != 6 or fields[1] not in (b"TCP4", b"TCP6"):
        raise ProxyError(f"no PROXY line: {line!r}")
    version = 4 if fields[1] == b"TCP4" else 6
    source, _ = (_address(field, version) for field in fields[2:4])
    port, _ = (_port(field) for field in fields[4:6])
    return ProxyHeader(host=source, port=port)


def _address(field: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(field.decode("ascii"))
    except ValueError:
        raise ProxyError(f"{field!r} is no address") from None
    if address.version != version or "%" in str(address):
        raise ProxyError(f"{field!r} is no address of IPv{version}")
    return str(address)


def _port(field: bytes) -> int:
    if not field.isdigit() or len(field) > 5 or int(field) > 65_535 or (field != b"0" and field.startswith(b"0")):
        raise ProxyError(f"{field!r} is no port")
    return int(field)


def _read_block(block: bytes) -> ProxyHeader:
    """Version 2, after the signature (§2.2)."""
    kind, family, _ = _FIXED.unpack_from(block)
    if kind not in (0x20, 0x21):
        raise ProxyError(f"version and command {kind:#04x} are not known")
    if kind == 0x20:
        return ProxyHeader(own=True)
    if family == 0:
        return ProxyHeader()
    layout = _ADDRESSES.get(family)
    if layout is None:
        raise ProxyError(f"family and transport {family:#04x} are no stream over IPv4, IPv6 or a Unix socket")
    if len(block) < _FIXED.size + layout.size:
        raise ProxyError(f"{len(block) - _FIXED.size} bytes do not hold two addresses")
    extensions = _extensions(block[_FIXED.size + layout.size :])
    _check_sum(block, extensions)
    common_name = _common_name(extensions)
    if layout is _UNIX:
        return ProxyHeader(unix=True, common_name=common_name)
    source, _, port, _ = layout.unpack_from(block, _FIXED.size)
    return ProxyHeader(host=str(ipaddress.ip_address(source)), port=port, common_name=common_name)


def _check_sum(block: bytes, extensions: list[tuple[int, bytes]]) -> None:
    """A header that says its own checksum was not changed on its way (§2.2.3): it is made with zeros in its place."""
    at = len(block) - sum(3 + len(value) for _, value in extensions)
    for kind, value in extensions:
        at += 3 + len(value)
        if kind != _TLV_CRC32C:
            continue
        if len(value) != 4:
            raise ProxyError(f"a CRC32C of {len(value)} bytes")
        if crc32c(SIGNATURE + block[: at - 4] + bytes(4) + block[at:]) != int.from_bytes(value, "big"):
            raise ProxyError("the header's CRC32C is not that of its bytes")


def _common_name(extensions: list[tuple[int, bytes]]) -> str:
    """What the SSL extension says of a verified certificate (§2.2.5)."""
    for kind, value in extensions:
        if kind != _TLV_SSL:
            continue
        if len(value) < 5:
            raise ProxyError("the SSL extension is cut short")
        verified = value[0] & _SSL_CERTIFICATE and value[1:5] == bytes(4)
        for inner, name in _extensions(value[5:]):
            if inner == _TLV_SSL_CN and verified:
                try:
                    return name.decode()
                except UnicodeDecodeError:
                    raise ProxyError("the certificate's name is not UTF-8") from None
    return ""


def _extensions(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(data) - at < 3:
            raise ProxyError("an extension is cut short")
        stop = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if stop > len(data):
            raise ProxyError("an extension is longer than the header")
        found.append((data[at], data[at + 3 : stop]))
        at = stop
    return found
