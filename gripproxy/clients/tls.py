"""Certificates for TLS clients, chosen by name (SNI) and read again when their files change.

For `a.b.c` the files `a.b.c.crt` and `a.b.c.key` are looked for, then `_.b.c.*`, then
`default_PORT.*`, as in Pushpin.
"""

import logging
import re
import ssl
from pathlib import Path

log = logging.getLogger("gripproxy.clients")

# A name goes into a file name, so only what is a host name may.
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class Certificates:
    """The certificates in one directory, for one port."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._default = f"default_{port}"
        self._loaded: dict[
            str, tuple[int, ssl.SSLContext]
        ] = {}  # by stem, with the newer mtime in ns
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        context = self._find(name)
        if context is None:
            log.info(
                "no certificate for %s in %s: neither its own nor %s.crt with .key",
                name or "clients without SNI",
                self._directory,
                self._default,
            )
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None

    def _find(self, name: str | None) -> ssl.SSLContext | None:
        stems = []
        lowered = (name or "").lower()
        if _NAME.fullmatch(lowered):
            stems.append(lowered)
            stems.append("_." + lowered.partition(".")[2])
        stems.append(self._default)
        for stem in stems:
            context = self._load(stem)
            if context is not None:
                return context
        return None

    def _load(self, stem: str) -> ssl.SSLContext | None:
        certificate, key = self._directory / f"{stem}.crt", self._directory / f"{stem}.key"
        try:
            changed = max(certificate.stat().st_mtime_ns, key.stat().st_mtime_ns)
        except OSError:
            self._loaded.pop(stem, None)
            return None
        loaded = self._loaded.get(stem)
        if loaded is not None and loaded[0] == changed:
            return loaded[1]
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            # While files are being replaced, a new certificate may meet an old key.
            log.warning("cannot load %s: %s", certificate, error)
            return loaded[1] if loaded is not None else None
        self._loaded[stem] = (changed, context)
        return context
