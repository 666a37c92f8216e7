"""IP addresses as sockets give them: which machine or owner one stands for, whatever way it is written."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(host: str) -> IpAddress | None:
    """The address that ``host`` is, as IPv4 if it is that within IPv6; None if it is none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Whether a peer's address, as sockets give it, is this machine itself."""
    address = address_of(host)
    return address is not None and address.is_loopback


def address_block(host: str) -> str:
    """What one owner usually has: an IPv4 address, or the /64 an IPv6 address is in."""
    address = address_of(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return host if address is None else str(address)
