"""Signed tokens (JWT): checked with public keys from a file, which may change while the server runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from vouchsafe.domain.access import Principal, known_roles
from vouchsafe.domain.errors import Misconfigured, Unauthenticated
from vouchsafe.edge.reloading import Reloaded
from vouchsafe.service.keys import NOT_VALID
from vouchsafe.settings import Settings

# Signatures by a private key only: with a shared secret whoever can check a token could make one.
ALGORITHMS = ("RS256", "ES256", "EdDSA")
SHORTEST_RSA_BITS = 2_048
MOST_KEYS = 20
# What the clocks of two machines may differ by.
LEEWAY_S = 5
LOOK_INTERVAL_S = 1.0
# Tokens whose signature has been checked already: that takes some 50 microseconds, and most callers come again.
MOST_REMEMBERED = 10_000
LONGEST_NAME = 200
REQUIRED = ["exp", "sub", "iss", "aud"]


@dataclass(frozen=True, slots=True)
class _Key:
    id: str | None
    algorithm: str
    public: Any


class Tokens:
    """Raises Misconfigured when the file or the settings beside it are not usable."""

    def __init__(self, settings: Settings) -> None:
        if not (settings.jwt_issuer and settings.jwt_audience):
            raise Misconfigured("VOUCHSAFE_JWT_KEYS_FILE needs VOUCHSAFE_JWT_ISSUER and VOUCHSAFE_JWT_AUDIENCE as well")
        self._issuer, self._audience = settings.jwt_issuer, settings.jwt_audience
        accepted = settings.jwt_algorithms.split(",")
        if not set(accepted) <= set(ALGORITHMS):
            raise Misconfigured(f"VOUCHSAFE_JWT_ALGORITHMS: give some of {','.join(ALGORITHMS)}")
        self._keys = Reloaded([settings.jwt_keys_file], lambda text: _keys(text, accepted))
        self._remembered: dict[bytes, tuple[Principal, float]] = {}
        self._look_at = 0.0

    def principal_of(self, token: str) -> Principal:
        """Whom a token was given to. Raises Unauthenticated, in the same words whatever is wrong."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL_S
            if self._keys.look():
                self._remembered.clear()
        # The hash, so that no token lies in memory for longer than its call.
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        remembered = self._remembered.get(digest)
        if remembered is not None and time.time() < remembered[1]:
            return remembered[0]
        try:
            claims = self._claims(token)
            principal, until = _principal(claims), float(claims["exp"]) + LEEWAY_S
        except Exception:  # noqa: BLE001  # whatever there is in a token to stumble over, it lets nobody in
            raise Unauthenticated(NOT_VALID) from None
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = principal, until
        return principal

    def _claims(self, token: str) -> dict[str, Any]:
        """Those of a token that holds. Raises what the library does, and ValueError when no key is the right one."""
        header = jwt.get_unverified_header(token)
        algorithm, id_ = header["alg"], header.get("kid")
        for key in self._keys.value:
            if algorithm == key.algorithm and (None in (id_, key.id) or id_ == key.id):
                try:
                    return jwt.decode(
                        token,
                        key.public,
                        algorithms=[key.algorithm],
                        issuer=self._issuer,
                        audience=self._audience,
                        leeway=LEEWAY_S,
                        options={"require": REQUIRED},
                    )
                except jwt.InvalidSignatureError:
                    continue
        raise ValueError


def _principal(claims: dict[str, Any]) -> Principal:
    subject, roles = claims["sub"], claims.get("roles", [])
    if not (0 < len(subject) <= LONGEST_NAME and subject.isprintable() and isinstance(roles, list)):
        raise ValueError
    return Principal(f"token:{subject}", known_roles(role for role in roles if isinstance(role, str)))


def _keys(text: bytes, accepted: Sequence[str]) -> list[_Key]:
    """The public keys of a JWKS, or of a PEM file with one or several. Raises ValueError when none is of use."""
    if text.lstrip().startswith(b"{"):
        try:
            read = jwt.PyJWKSet.from_json(text.decode())
        except (jwt.PyJWTError, AttributeError, TypeError):
            # The library's own words may show the key.
            raise ValueError("it is not a JWKS with keys that can be used") from None
        found = [_Key(key.key_id, key.algorithm_name, key.key) for key in read if key.public_key_use in (None, "sig")]
    else:
        begin = b"-----BEGIN "
        found = []
        for part in text.split(begin)[1:]:
            public = load_pem_public_key(begin + part)
            found.append(_Key(None, _algorithm(public), public))
    usable = [key for key in found if key.algorithm in accepted and _algorithm(key.public) == key.algorithm]
    if not 0 < len(usable) <= MOST_KEYS:
        raise ValueError(
            f"it has to have 1 to {MOST_KEYS} public keys for {', '.join(accepted)}, and has {len(usable)}"
        )
    return usable


def _algorithm(public: object) -> str:
    """The one algorithm that a public key is for, "" when it is for none of ours or too weak."""
    match public:
        case rsa.RSAPublicKey() if public.key_size >= SHORTEST_RSA_BITS:
            return "RS256"
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, ec.SECP256R1):
            return "ES256"
        case ed25519.Ed25519PublicKey():
            return "EdDSA"
        case _:
            return ""
