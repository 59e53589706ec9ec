"""TLS: the server's certificate, exchanged while it runs, and those of callers, which say who they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from vouchsafe.domain.access import Principal, Role
from vouchsafe.domain.errors import Misconfigured
from vouchsafe.edge.reloading import Reloaded
from vouchsafe.settings import Settings

# `*` stands for anything; the rest is itself.
PATTERN = re.compile(r"[\w.:/@*-]{1,200}", re.ASCII)
MOST_ENTRIES = 100
MOST_REMEMBERED = 1_000
LONGEST_NAME = 200


class Certificates:
    """Who callers are by their certificates, which gRPC has verified. Raises Misconfigured for roles that are none."""

    def __init__(self, settings: Settings) -> None:
        self._entries = _entries(settings.tls_roles)
        self._named = lru_cache(MOST_REMEMBERED)(self._judge)

    def principal_of(self, properties: Mapping[str, Iterable[bytes]]) -> Principal | None:
        """The caller, by its one URI in the subject's alternative names or, without any, by the subject's common name.
        None when the certificate names nobody, or several."""
        uris, names = ([*properties.get(key, ())] for key in ("peer_uri", "x509_common_name"))
        if len(uris or names) != 1:
            return None
        name = (uris or names)[0].decode(errors="replace")
        # A common name is what somebody typed; it must not pass for a URI.
        if len(name) > LONGEST_NAME or not name.isprintable() or (not uris and "://" in name):
            return None
        return self._named(name)

    def _judge(self, name: str) -> Principal:
        roles = (role for pattern, role in self._entries if fnmatchcase(name, pattern))
        return Principal(f"certificate:{name}", frozenset(roles))


def _entries(text: str) -> list[tuple[str, Role]]:
    entries = []
    for entry in filter(None, map(str.strip, text.split(","))):
        pattern, _, role = entry.rpartition("=")
        if not PATTERN.fullmatch(pattern) or role not in set(Role):
            raise Misconfigured(
                f"VOUCHSAFE_TLS_ROLES: {entry!r} is no `name=role`; a name may have letters, digits, ._:/@- and * for "
                f"anything, and the roles are {', '.join(Role)}"
            )
        entries.append((pattern, Role(role)))
    if len(entries) > MOST_ENTRIES:
        raise Misconfigured(f"VOUCHSAFE_TLS_ROLES: {len(entries)} entries are more than {MOST_ENTRIES}")
    return entries


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What to encrypt with, None for nothing. Each connection begins with what the files hold then.

    Raises Misconfigured when something is missing or does not belong together.
    """
    if settings.tls_roles and not settings.tls_client_ca_file:
        raise Misconfigured("VOUCHSAFE_TLS_ROLES needs VOUCHSAFE_TLS_CLIENT_CA_FILE as well")
    if not settings.tls_cert_file:
        if settings.tls_key_file or settings.tls_client_ca_file:
            raise Misconfigured("VOUCHSAFE_TLS_KEY_FILE and VOUCHSAFE_TLS_CLIENT_CA_FILE need VOUCHSAFE_TLS_CERT_FILE")
        return None
    if not settings.tls_key_file:
        raise Misconfigured("VOUCHSAFE_TLS_CERT_FILE needs VOUCHSAFE_TLS_KEY_FILE as well")
    files = [settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file]
    reloaded = Reloaded([file for file in files if file], _configuration)

    def changed() -> Any:
        # Called before each handshake; None: go on with what there is.
        return reloaded.value if reloaded.look() else None

    return grpc.dynamic_ssl_server_credentials(
        reloaded.value, changed, require_client_authentication=bool(settings.tls_client_ca_file)
    )


def _configuration(chain: bytes, key: bytes, client_ca: bytes | None = None) -> Any:
    """Raises ValueError when they do not belong together: gRPC would only say so in its own log."""
    try:
        matches = x509.load_pem_x509_certificates(chain)[0].public_key() == load_pem_private_key(key, None).public_key()
    except TypeError:
        raise ValueError("the key is encrypted; the server has no password") from None
    if not matches:
        raise ValueError("the key is not the certificate's")
    if client_ca is not None:
        x509.load_pem_x509_certificates(client_ca)
    return grpc.ssl_server_certificate_configuration([(key, chain)], client_ca)
