"""Who may, without a server: the roles of methods, and credentials of every kind that must not hold."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

import vouchsafe.v1
from tests.certificates import Certificate
from vouchsafe.domain.access import ANYBODY, Principal, Role
from vouchsafe.domain.errors import InvalidRequest, Misconfigured, PermissionDenied, Unauthenticated, Unavailable
from vouchsafe.edge.access import SERVICES, Access, roles_by_method
from vouchsafe.edge.certificates import Certificates, server_credentials
from vouchsafe.edge.tokens import ALGORITHMS, Tokens
from vouchsafe.service.keys import NOT_VALID, Keys, is_of, new_key
from vouchsafe.settings import Settings
from vouchsafe.v1.access_pb2 import Role as WireRole

ROOT = Path(__file__).parents[2]
REDEEM = "/vouchsafe.v1.RedemptionService/ValidateAndRedeem"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65537, 2048)


def pem(*keys: Any) -> bytes:
    return b"".join(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    all_ = {"iss": "us", "aud": "vouchsafe", "sub": "pos", "exp": now + 60, "iat": now, "roles": ["checkout"]} | changed
    return {name: value for name, value in all_.items() if value is not None}


def settings(**changed: Any) -> Settings:
    return Settings(**({"jwt_issuer": "us", "jwt_audience": "vouchsafe"} | changed))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def tokens(file: Path) -> Tokens:
    file.write_bytes(pem(RSA, EC, ED))
    return Tokens(settings(jwt_keys_file=str(file)))


# -- the roles of methods ----------------------------------------------------------------------------------------------


def test_every_method_of_every_service_says_who_may() -> None:
    modules = [import_module(f"vouchsafe.v1.{module.name}") for module in iter_modules(vouchsafe.v1.__path__)]
    services = [
        service
        for module in modules
        if hasattr(module, "DESCRIPTOR")
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    assert {service.full_name for service in services} == {service.full_name for service in SERVICES}
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert roles_by_method().keys() == methods


def test_the_roles_are_those_of_the_protos() -> None:
    assert {f"ROLE_{role.name}" for role in Role} == {name for name, number in WireRole.items() if number}
    assert all(role.value == role.name.lower() for role in Role)
    assert ANYBODY.roles == set(Role)


def test_the_documented_table_is_what_the_protos_say() -> None:
    text = (ROOT / "docs/access.md").read_text()
    documented = {
        cells[0].strip("`"): {role for role, cell in zip(Role, cells[1:], strict=True) if cell}
        for line in re.findall(r"^\| (`[A-Z]\w+` .*)\|$", text, re.MULTILINE)
        if (cells := [cell.strip() for cell in line.split("|")])
    }
    assert documented == {path.rpartition("/")[2]: set(roles) for path, roles in roles_by_method().items()}


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "algorithm"), list(zip((RSA, EC, ED), ALGORITHMS, strict=True)), ids=ALGORITHMS)
def test_a_good_token_lets_in_whom_it_names(tokens: Tokens, key: Any, algorithm: str) -> None:
    token = jwt.encode(claims(roles=["checkout", "viewer", "emperor"]), key, algorithm)
    for _ in range(2):  # the second time it is remembered
        assert tokens.principal_of(token) == Principal("token:pos", frozenset({Role.CHECKOUT, Role.VIEWER}))


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def forged_by_hmac(secret: bytes) -> str:
    """With the public key as the secret; the library refuses to make one, an attacker does not."""
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims())}"
    signature = base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{text}.{signature}"


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "signed by a stranger": lambda: jwt.encode(claims(), STRANGER, "RS256"),
    "without a signature": lambda: jwt.encode(claims(), "", "none"),
    "None in other letters": lambda: f"{part({'alg': 'nOnE'})}.{part(claims())}.",
    "signed with the public key as a secret": lambda: forged_by_hmac(pem(RSA)),
    "signed with all public keys as a secret": lambda: forged_by_hmac(pem(RSA, EC, ED)),
    "another algorithm of the same key": lambda: jwt.encode(claims(), RSA, "PS256"),
    "a longer hash": lambda: jwt.encode(claims(), RSA, "RS512"),
    "expired": lambda: jwt.encode(claims(exp=int(time.time()) - 60), RSA, "RS256"),
    "not yet valid": lambda: jwt.encode(claims(nbf=int(time.time()) + 60), RSA, "RS256"),
    "from the future": lambda: jwt.encode(claims(iat=int(time.time()) + 60), RSA, "RS256"),
    "for ever": lambda: jwt.encode(claims(exp=None), RSA, "RS256"),
    "until infinity": lambda: jwt.encode(claims(exp=float("inf")), RSA, "RS256"),
    "until a word": lambda: jwt.encode(claims(exp="soon"), RSA, "RS256"),
    "for somebody else": lambda: jwt.encode(claims(aud="shop"), RSA, "RS256"),
    "for nobody": lambda: jwt.encode(claims(aud=None), RSA, "RS256"),
    "by somebody else": lambda: jwt.encode(claims(iss="them"), RSA, "RS256"),
    "by nobody": lambda: jwt.encode(claims(iss=None), RSA, "RS256"),
    "about nobody": lambda: jwt.encode(claims(sub=None), RSA, "RS256"),
    "about an empty name": lambda: jwt.encode(claims(sub=""), RSA, "RS256"),
    "about a name with a newline": lambda: jwt.encode(claims(sub="a\nb"), RSA, "RS256"),
    "about a very long name": lambda: jwt.encode(claims(sub="x" * 201), RSA, "RS256"),
    "roles that are a word": lambda: jwt.encode(claims(roles="admin"), RSA, "RS256"),
    "roles that are an object": lambda: jwt.encode(claims(roles={"admin": True}), RSA, "RS256"),
    "of a key that is not there": lambda: jwt.encode(claims(), STRANGER, "RS256", headers={"kid": "other"}),
    "with its own key": lambda: jwt.encode(
        claims(), STRANGER, "RS256", headers={"jwk": json.loads(RSAAlgorithm.to_jwk(STRANGER.public_key()))}
    ),
    "with other claims": lambda: swapped(jwt.encode(claims(), RSA, "RS256"), claims(roles=["admin"])),
    "no token": lambda: "hello",
    "nothing": lambda: "",
    "dots": lambda: "..",
    "a deep header": lambda: f"{part('[' * 5_000)}.{part(claims())}.x",
    "a header that is a list": lambda: f"{part([])}.{part(claims())}.x",
    "a lone surrogate": lambda: "\udc80",
}


def swapped(token: str, other: dict[str, Any]) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{part(other)}.{signature}"


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_does_not_hold_lets_nobody_in(tokens: Tokens, name: str) -> None:
    with pytest.raises(Unauthenticated, match=re.escape(NOT_VALID)):
        tokens.principal_of(BAD_TOKENS[name]())


def test_a_remembered_token_ends_as_it_says(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vouchsafe.edge.tokens.LEEWAY_S", 0)
    end = int(time.time()) + 2
    token = jwt.encode(claims(exp=end), RSA, "RS256")
    tokens.principal_of(token)
    time.sleep(end - time.time() + 0.1)
    with pytest.raises(Unauthenticated):
        tokens.principal_of(token)


def jwks(**keys: Any) -> bytes:
    makers = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    entries = []
    for id_, key in keys.items():
        maker: Any = next((maker for kind, maker in makers.items() if isinstance(key, kind)), OKPAlgorithm)
        entries.append(json.loads(maker.to_jwk(key.public_key())) | {"kid": id_})
    return json.dumps({"keys": entries}).encode()


def test_keys_are_exchanged_while_the_server_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vouchsafe.edge.tokens.LOOK_INTERVAL_S", 0)
    file.write_bytes(jwks(old=RSA))
    tokens = Tokens(settings(jwt_keys_file=str(file)))
    old, new = (
        jwt.encode(claims(), key, "RS256", headers={"kid": id_}) for id_, key in (("old", RSA), ("new", STRANGER))
    )
    tokens.principal_of(old)
    with pytest.raises(Unauthenticated):
        tokens.principal_of(new)
    file.write_bytes(jwks(old=RSA, new=STRANGER, elliptic=EC, edwards=ED))
    assert tokens.principal_of(old) == tokens.principal_of(new)
    # What is no file of keys changes nothing; nor does none at all.
    file.write_bytes(b'{"keys": [')
    tokens.principal_of(new)
    file.unlink()
    tokens.principal_of(new)
    file.write_bytes(jwks(new=STRANGER))
    tokens.principal_of(new)
    # Also one that was remembered.
    with pytest.raises(Unauthenticated):
        tokens.principal_of(old)


WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
BAD_KEYS = {
    "nothing": b"",
    "words": b"hello",
    "a broken key": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    "a weak key": pem(WEAK),
    "a curve that is not ours": pem(ec.generate_private_key(ec.SECP384R1())),
    "a shared secret": json.dumps(
        {"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "x"}]}
    ).encode(),
    "no keys": b'{"keys": []}',
    "keys that are a word": b'{"keys": "x"}',
    "not UTF-8": b"{\xff",
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_keys_that_are_of_no_use_are_refused_at_start(file: Path, name: str) -> None:
    file.write_bytes(BAD_KEYS[name])
    with pytest.raises(Misconfigured, match="cannot use"):
        Tokens(settings(jwt_keys_file=str(file)))


@pytest.mark.parametrize(
    "changed", [{"jwt_algorithms": "HS256"}, {"jwt_algorithms": "none"}, {"jwt_issuer": ""}, {"jwt_audience": ""}]
)
def test_settings_that_would_trust_too_much_are_refused(file: Path, changed: dict[str, str]) -> None:
    file.write_bytes(pem(RSA))
    with pytest.raises(Misconfigured, match="VOUCHSAFE_JWT_"):
        Tokens(settings(jwt_keys_file=str(file), **changed))


def test_an_algorithm_that_is_not_chosen_does_not_hold(file: Path) -> None:
    file.write_bytes(pem(RSA, EC))
    tokens = Tokens(settings(jwt_keys_file=str(file), jwt_algorithms="ES256"))
    tokens.principal_of(jwt.encode(claims(), EC, "ES256"))
    with pytest.raises(Unauthenticated):
        tokens.principal_of(jwt.encode(claims(), RSA, "RS256"))


# -- API keys ----------------------------------------------------------------------------------------------------------


def test_a_key_is_known_by_its_hash_alone() -> None:
    token, kept = new_key("pos", [Role.CHECKOUT])
    assert re.fullmatch(r"vs_[0-9a-f]{12}_[\w-]{43}", token)
    secret = token.split("_", 2)[2]
    assert secret not in repr(kept)
    assert kept.secret_hash.hex() not in repr(kept)
    assert is_of(token, kept)
    other, _ = new_key("pos", [Role.CHECKOUT])
    for wrong in (other, token[:-1], token + "x", token.replace(kept.id, "0" * 12), f"vs_{kept.id}_", "vs_", ""):
        assert not is_of(wrong, kept)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "x" * 65, "[red]"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InvalidRequest):
        new_key(name, [Role.CHECKOUT])


# -- certificates ------------------------------------------------------------------------------------------------------


def test_a_certificate_says_who_it_is() -> None:
    certificates = Certificates(
        settings(tls_roles="checkout-*=checkout, ops=operator,ops=viewer,spiffe://shop/*=support")
    )

    def found(*uris: bytes, name: bytes = b"") -> Principal | None:
        properties = {"peer_uri": uris, "x509_common_name": (name,) if name else ()}
        return certificates.principal_of({key: value for key, value in properties.items() if value})

    assert found(name=b"checkout-7") == Principal("certificate:checkout-7", frozenset({Role.CHECKOUT}))
    assert found(name=b"ops") == Principal("certificate:ops", frozenset({Role.OPERATOR, Role.VIEWER}))
    # The URI counts, when there is one.
    assert found(b"spiffe://shop/x", name=b"ops") == Principal("certificate:spiffe://shop/x", frozenset({Role.SUPPORT}))
    assert found(name=b"OPS") == Principal("certificate:OPS", frozenset())
    assert found(name=b"xops") == Principal("certificate:xops", frozenset())
    for nobody in (
        found(),
        found(b"a://b", b"c://d", name=b"ops"),
        found(name=b"spiffe://shop/x"),
        found(name=b"o\nps"),
    ):
        assert nobody is None


@pytest.mark.parametrize(
    "roles", ["ops", "ops=king", "=viewer", "o[p]s=viewer", "o?s=viewer", ",".join(["a=viewer"] * 101)]
)
def test_roles_of_certificates_that_are_none(roles: str) -> None:
    with pytest.raises(Misconfigured, match="VOUCHSAFE_TLS_ROLES"):
        Certificates(settings(tls_roles=roles))


def test_a_certificate_with_the_key_of_another_is_refused(tmp_path: Path) -> None:
    one, other = (Certificate(name).write(tmp_path, name) for name in ("one", "other"))
    assert server_credentials(settings(tls_cert_file=str(one[0]), tls_key_file=str(one[1]))) is not None
    for changed in (
        {"tls_cert_file": str(one[0]), "tls_key_file": str(other[1])},
        {"tls_cert_file": str(one[0]), "tls_key_file": str(one[0])},
        {"tls_cert_file": str(one[0])},
        {"tls_key_file": str(one[1])},
        {"tls_client_ca_file": str(one[0])},
        {"tls_roles": "ops=operator"},
        {"tls_cert_file": str(one[0]), "tls_key_file": str(tmp_path / "nothing")},
    ):
        with pytest.raises(Misconfigured):
            server_credentials(settings(**changed))
    assert server_credentials(settings()) is None


# -- the decision ------------------------------------------------------------------------------------------------------


class Nobody:
    """A connection without a certificate, over which so much is sent."""

    def __init__(self, *sent: str | bytes) -> None:
        self._sent = sent

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [("authorization", value) for value in self._sent]

    def auth_context(self) -> dict[str, Any]:
        return {}

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4711"


def admit(access: Access, *sent: str | bytes, method: str = REDEEM) -> Principal:
    return access.admit(method, Nobody(*sent))  # type: ignore[arg-type]


def test_what_is_sent_has_to_be_one_bearer(file: Path) -> None:
    file.write_bytes(pem(RSA))
    access = Access(settings(jwt_keys_file=str(file)), Keys("", 1))
    token = jwt.encode(claims(), RSA, "RS256")
    assert admit(access, f"Bearer {token}") == admit(access, f"bearer {token}")
    for wrong in ((), (token,), (f"Basic {token}",), (f"Bearer {token}",) * 2, (b"Bearer x",), ("Bearer",)):
        with pytest.raises(Unauthenticated):
            admit(access, *wrong)


def test_nobody_may_what_says_nothing_about_roles(file: Path) -> None:
    file.write_bytes(pem(RSA))
    access = Access(settings(jwt_keys_file=str(file)), Keys("", 1))
    admin = f"Bearer {jwt.encode(claims(roles=['admin']), RSA, 'RS256')}"
    admit(access, admin)
    with pytest.raises(PermissionDenied):
        admit(access, admin, method="/vouchsafe.v1.RedemptionService/New")


def test_keys_that_were_never_read_let_nobody_in() -> None:
    with pytest.raises(Unavailable):
        admit(Access(settings(), Keys("", 1)), f"Bearer {new_key('pos', [Role.ADMIN])[0]}")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example", ""])  # noqa: S104  # what it is about
def test_everybody_is_let_in_on_this_machine_only(host: str) -> None:
    with pytest.raises(Misconfigured, match="VOUCHSAFE_AUTH=off"):
        Access(settings(auth="off", host=host), Keys("", 1))
    for local in ("127.0.0.1", "::1", "localhost"):
        assert admit(Access(settings(auth="off", host=local), Keys("", 1))) == ANYBODY


def test_credentials_are_not_shown() -> None:
    shown = Settings(api_key="vs_0_tell-nobody", secret="tell-nobody-at-all").shown()  # noqa: S106  # of this test
    assert "tell-nobody" not in str(shown)
