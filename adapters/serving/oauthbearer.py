"""OAUTHBEARER: a bearer token in one message (RFC 7628). The tokens are the users' own; nothing is asked of others."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dragoman.routing.refusals import Reason, Refusal

OAUTHBEARER: Final = "OAUTHBEARER"

MESSAGE_BYTES_MAX: Final = 16_384
"""Longer messages are not looked at; tokens of ours have 43 characters, those of others a few thousand."""

_MESSAGE: Final = re.compile(
    r"([ny]|p=[A-Za-z0-9.-]+),(?:a=([^\0,]+))?,\x01((?:[A-Za-z]+=[\x20-\x7e\t\r\n]*\x01)*)\x01"
)
_BEARER: Final = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")


class Bearer(NamedTuple):
    """What a client says: its token, and for whom it wants to act (empty: for itself)."""

    token: str
    acting_as: str


def parse_bearer(data: bytes) -> Bearer | Refusal:
    """``n,[a=authzid],^Aauth=Bearer token^A[key=value^A…]^A``; host, port and extensions say nothing here."""
    if len(data) > MESSAGE_BYTES_MAX:
        return _no(f"a message has at most {MESSAGE_BYTES_MAX} bytes")
    try:
        found = _MESSAGE.fullmatch(data.decode())
    except UnicodeDecodeError:
        return _no("a message is not UTF-8")
    if found is None:
        return _no("the message is not of RFC 7628's form: n,,^Aauth=Bearer TOKEN^A^A")
    if found[1].startswith("p"):
        return _no("channel binding is not offered here")
    pairs = [pair.partition("=") for pair in found[3].split("\x01")[:-1]]
    said = [value for key, _, value in pairs if key == "auth"]
    bearer = _BEARER.fullmatch(said[0]) if len(said) == 1 else None
    if bearer is None:
        return _no("the message does not say one auth=Bearer and a token")
    return Bearer(bearer[1], (found[2] or "").replace("=2C", ",").replace("=3D", "="))


def _no(why: str) -> Refusal:
    return Refusal(Reason.NOT_AUTHENTICATED, f"{OAUTHBEARER}: {why}")
