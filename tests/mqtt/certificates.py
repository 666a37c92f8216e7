"""A certificate authority of a test's own, made with the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Signs certificates in a folder: ``NAME.pem`` and ``NAME.key``. ``openssl`` is the program's path."""

    def __init__(self, openssl: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._openssl = openssl
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._ca_key = folder / "ca.key"
        self._run(
            "req",
            "-x509",
            *_NEW_KEY,
            "-subj",
            "/CN=test authority",
            "-days",
            "2",
            "-keyout",
            self._ca_key,
            "-out",
            self.ca,
        )

    def sign(self, name: str, subject: str, alternative: str = "") -> tuple[Path, Path]:
        """A certificate with this subject ("/CN=dev1") and alternative names ("DNS:a,URI:b"), and its key."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "basicConstraints=CA:FALSE\n")
        self._run("req", *_NEW_KEY, "-subj", subject, "-keyout", key, "-out", request)
        signed_by = ("-CA", self.ca, "-CAkey", self._ca_key, "-CAcreateserial")
        self._run("x509", "-req", "-in", request, *signed_by, "-days", "2", "-extfile", extensions, "-out", certificate)
        key.chmod(0o600)
        return certificate, key

    def revoke(self, *certificates: Path) -> Path:
        """The list of certificates that were taken back: these."""
        made, config, index = (self._folder / name for name in ("crl.pem", "ca.cnf", "index.txt"))
        index.write_text("")
        config.write_text(f"[ca]\ndefault_ca=it\n[it]\ndatabase={index}\ndefault_md=sha256\ndefault_crl_days=2\n")
        signing = ("ca", "-config", config, "-keyfile", self._ca_key, "-cert", self.ca)
        for certificate in certificates:
            self._run(*signing, "-revoke", certificate)
        self._run(*signing, "-gencrl", "-out", made)
        return made

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)
