"""The TLS context of listeners, with a sentence for every file that does not serve."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from dragoman.adapters.serving.host_names import HostNames, certificate_hosts
from dragoman.adapters.serving.sockets import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.adapters.serving.settings import CertificateSettings, TlsSettings

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(ListenError):
    """A file that does not serve. ``key``: which of certificate, private_key, client_ca and client_crl names it.

    Of a further certificate it is ``certificates[2].private_key``: the second row's.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def server_context(
    settings: TlsSettings, *, client_ca: str = "", client_crl: str = "", required: bool = False
) -> ssl.SSLContext:
    """The context for a TLS listener of a mesh. Raises TlsError. Read again, it takes renewed files.

    It shows the certificate that has the host name the client asks for (SNI, RFC 6066 §3), else the first.
    ``client_ca``: a PEM file of who signs the clients' certificates; "" = clients are asked for none. ``client_crl``:
    one of those that were taken back; "" = none was.
    """
    if not settings.certificate:
        raise TlsError("certificate", "a TLS listener needs tls.certificate and tls.private_key in the configuration")

    def context(certificate: str, private_key: str, table: str) -> ssl.SSLContext:
        made = _context(certificate, private_key, table)
        made.minimum_version = _VERSIONS[settings.minimum]
        # Each has all of it: who may come in must not hang on the name that is asked for.
        if client_ca:
            _load(made, "client_ca", client_ca, "certificates")
            made.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        if client_crl:
            _load(made, "client_crl", client_crl, "list of revoked certificates")
            made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return made

    first = context(settings.certificate, settings.private_key, "")
    refuse = settings.unknown_host == "refuse"
    if settings.certificates or refuse:
        hosts: HostNames[ssl.SSLContext] = HostNames()
        hosts.add(_hosts(settings.certificate), first)
        for number, row in enumerate(settings.certificates, start=1):
            table = f"certificates[{number}]."
            made = context(row.certificate, row.private_key, table)
            hosts.add(_names(row, table), made)
        first.sni_callback = _chooser(hosts, refuse=refuse)
    return first


def file_faults(settings: TlsSettings, *, client_ca: str = "", client_crl: str = "") -> list[TlsError]:
    """Every file that does not serve a listener; ``server_context`` stops at the first. No certificate is none."""
    faults: list[TlsError] = []

    def serves(work: Callable[..., object], *arguments: object) -> bool:
        try:
            work(*arguments)
        except TlsError as error:
            faults.append(error)
            return False
        return True

    def pair(certificate: str, private_key: str, table: str) -> bool:
        there = serves(_readable, f"{table}certificate", certificate)
        there &= serves(_readable, f"{table}private_key", private_key)
        return there and serves(_context, certificate, private_key, table)

    if settings.certificate:
        pair(settings.certificate, settings.private_key, "")
    for number, row in enumerate(settings.certificates, start=1):
        table = f"certificates[{number}]."
        if pair(row.certificate, row.private_key, table):
            serves(_names, row, table)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if client_ca:
        serves(_load, made, "client_ca", client_ca, "certificates")
    if client_crl:
        serves(_load, made, "client_crl", client_crl, "list of revoked certificates")
    return faults


def _chooser(
    hosts: HostNames[ssl.SSLContext], *, refuse: bool
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], int | None]:
    """What a handshake asks for its certificate, once the client has named a host or not."""

    def choose(handshake: ssl.SSLObject, host: str | None, first: ssl.SSLContext) -> int | None:
        found = hosts.find(host) if host else first
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if refuse else None
        if found is not first:
            handshake.context = found
        return None

    return choose


def _names(row: CertificateSettings, table: str) -> tuple[str, ...]:
    names = row.hosts or _hosts(row.certificate)
    if not names:
        raise TlsError(f"{table}certificate", f"{row.certificate} is for no DNS name: say which by hosts")
    return names


def _hosts(path: str) -> tuple[str, ...]:
    with open(path, encoding="latin-1") as file:
        return certificate_hosts(file.read())


def _context(certificate: str, private_key: str, table: str) -> ssl.SSLContext:
    _readable(f"{table}certificate", certificate)
    _readable(f"{table}private_key", private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a password callback an encrypted key is an error; without one OpenSSL would ask on the terminal.
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except ssl.SSLError as error:
        raise _unusable(error, certificate, private_key, table) from None
    except _EncryptedKeyError:
        raise TlsError(
            f"{table}private_key",
            f"the key {private_key} is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`",
        ) from None
    return context


def _load(context: ssl.SSLContext, key: str, path: str, what: str) -> None:
    _readable(key, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(key, f"{path} holds no PEM {what} ({error.reason or 'not understood'})") from None


class _EncryptedKeyError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedKeyError


def _readable(key: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise TlsError(key, f"cannot read {path} for TLS: {error.strerror}") from None


def _unusable(error: ssl.SSLError, certificate: str, private_key: str, table: str) -> TlsError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return TlsError(
            f"{table}private_key", f"the key {private_key} does not belong to the certificate {certificate}"
        )
    return TlsError(
        f"{table}certificate",
        f"{certificate} and {private_key} are no PEM certificate and key ({error.reason or 'not understood'})",
    )
