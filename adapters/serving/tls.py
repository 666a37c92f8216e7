"""The TLS context of listeners, with a sentence for every file that does not serve."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from dragoman.adapters.serving.sockets import ListenError

if TYPE_CHECKING:
    from dragoman.adapters.serving.settings import TlsSettings

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(settings: TlsSettings, *, client_ca: str = "", required: bool = False) -> ssl.SSLContext:
    """The context for a TLS listener of a mesh. Raises ListenError. Read again, it takes renewed files.

    ``client_ca``: a PEM file of who signs the clients' certificates; "" = clients are asked for none.
    """
    if not settings.certificate:
        raise ListenError("a TLS listener needs tls.certificate and tls.private_key in the configuration")
    for path in (settings.certificate, settings.private_key):
        _readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum]
    try:
        # With a password callback an encrypted key is an error; without one OpenSSL would ask on the terminal.
        context.load_cert_chain(settings.certificate, settings.private_key, password=_no_password)
    except ssl.SSLError as error:
        raise ListenError(_sentence(error, settings)) from None
    except _EncryptedKeyError:
        raise ListenError(
            f"the key {settings.private_key} is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`"
        ) from None
    if client_ca:
        _readable(client_ca)
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise ListenError(f"{client_ca} holds no PEM certificates ({error.reason or 'not understood'})") from None
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


class _EncryptedKeyError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedKeyError


def _readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ListenError(f"cannot read {path} for TLS: {error.strerror}") from None


def _sentence(error: ssl.SSLError, settings: TlsSettings) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key {settings.private_key} does not belong to the certificate {settings.certificate}"
    return (
        f"{settings.certificate} and {settings.private_key} are no PEM certificate and key "
        f"({error.reason or 'not understood'})"
    )
