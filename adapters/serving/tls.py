"""The TLS context of listeners, with a sentence for every file that does not serve."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from dragoman.adapters.serving.sockets import ListenError

if TYPE_CHECKING:
    from dragoman.adapters.serving.settings import TlsSettings

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(ListenError):
    """A file that does not serve. ``key``: which of certificate, private_key, client_ca and client_crl names it."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def server_context(
    settings: TlsSettings, *, client_ca: str = "", client_crl: str = "", required: bool = False
) -> ssl.SSLContext:
    """The context for a TLS listener of a mesh. Raises TlsError. Read again, it takes renewed files.

    ``client_ca``: a PEM file of who signs the clients' certificates; "" = clients are asked for none. ``client_crl``:
    one of those that were taken back; "" = none was.
    """
    if not settings.certificate:
        raise TlsError("certificate", "a TLS listener needs tls.certificate and tls.private_key in the configuration")
    _readable("certificate", settings.certificate)
    _readable("private_key", settings.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum]
    try:
        # With a password callback an encrypted key is an error; without one OpenSSL would ask on the terminal.
        context.load_cert_chain(settings.certificate, settings.private_key, password=_no_password)
    except ssl.SSLError as error:
        raise _unusable(error, settings) from None
    except _EncryptedKeyError:
        raise TlsError(
            "private_key",
            f"the key {settings.private_key} is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`",
        ) from None
    if client_ca:
        _load(context, "client_ca", client_ca, "certificates")
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    if client_crl:
        _load(context, "client_crl", client_crl, "list of revoked certificates")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
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


def _unusable(error: ssl.SSLError, settings: TlsSettings) -> TlsError:
    if error.reason == "KEY_VALUES_MISMATCH":
        text = f"the key {settings.private_key} does not belong to the certificate {settings.certificate}"
        return TlsError("private_key", text)
    return TlsError(
        "certificate",
        f"{settings.certificate} and {settings.private_key} are no PEM certificate and key "
        f"({error.reason or 'not understood'})",
    )
