"""TLS towards upstreams."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

_log = logging.getLogger("aidock.upstream")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Whom to trust and who we are. `ca_file` is trusted besides the system's authorities; the client certificate
    and its key are PEM files, the key may be in the certificate's file."""

    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    verify: bool = True

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> TlsSettings:
        return cls(ca_file=environ.get("SSL_CERT_FILE") or None)

    def context(self) -> ssl.SSLContext:
        """Raises `OSError` (of which `ssl.SSLError` is one) when a file cannot be read or used."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        if self.ca_file is not None:
            context.load_verify_locations(cafile=self.ca_file)
        if self.client_certificate is not None:
            context.load_cert_chain(self.client_certificate, self.client_key)
        if not self.verify:
            _log.warning("Certificates of upstreams are not verified: TLS verification is switched off.")
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
