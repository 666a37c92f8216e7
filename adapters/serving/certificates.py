"""What a client's certificate says: its names, and whose they may be. Knows no TLS; that verified it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias, cast

from dragoman.broker.principal import Principal
from dragoman.routing.refusals import Reason, Refusal

NAME_MAX: Final = 256
"""Characters of a name that a certificate alone makes a user's."""

RESERVED_NAMES: Final = ("anonymous", "embedded", "*")
"""They mean something else."""

_KINDS: Final = {"DNS": "dns", "email": "email", "URI": "uri", "IP Address": "ip"}
KINDS: Final = ("cn", *_KINDS.values())

_Name: TypeAlias = tuple[tuple[tuple[str, str], ...], ...]


class Certificate(NamedTuple):
    """The names by which a client's verified certificate says who it is, each with its kind: "cn:dev1".

    ``any_name``: whoever has the certificate is a user of its first name, even if no such user is configured.
    """

    names: tuple[str, ...]
    any_name: bool = False


def certificate_names(shown: Mapping[str, object] | None) -> tuple[str, ...]:
    """The names in a verified certificate, each with its kind, one of ``KINDS``.

    ``shown`` is what ``ssl.SSLSocket.getpeercert`` gives, None or empty where no certificate was shown.
    """
    names: list[str] = []
    for part in cast("_Name", (shown or {}).get("subject", ())):
        names.extend(f"cn:{value}" for kind, value in part if kind == "commonName")
    for kind, value in cast("tuple[tuple[str, str], ...]", (shown or {}).get("subjectAltName", ())):
        if kind in _KINDS:
            names.append(f"{_KINDS[kind]}:{value}")
    return tuple(names)


def reserved(name: str) -> bool:
    """Whether nobody can be called so: it means something else or begins like a group, a link or the mesh."""
    return name in RESERVED_NAMES or name.startswith(("@", "$", "link:"))


def unlisted(certificate: Certificate) -> Principal | Refusal:
    """Whoever shows a certificate by which no user is meant."""
    first = certificate.names[0].partition(":")[2] if certificate.names else ""
    if not first:
        why = "the client certificate has no name of the kind that is asked for, or none was shown"
    elif not certificate.any_name:
        why = f"nobody here is called {first[:NAME_MAX]!r} or has that certificate"
    elif len(first) > NAME_MAX or not first.isprintable() or reserved(first):
        why = "the certificate's name cannot be a user's"
    else:
        return Principal(first)
    return Refusal(Reason.NOT_AUTHENTICATED, why)
