"""Who may, from outside: every method with no, wrong and revoked credentials, while PostgreSQL is away and certificates
are exchanged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tests.adversity.test_serving import Command
from tests.certificates import LOOPBACK, Certificate
from tests.service import Service, a_campaign, an_order
from tests.support import eventually
from vouchsafe import app
from vouchsafe.client import Client, ClientError, Customer, NotFound, PermissionDenied, Redemption, Unauthenticated
from vouchsafe.domain.access import Role
from vouchsafe.edge.access import roles_by_method
from vouchsafe.service.keys import NOT_VALID
from vouchsafe.settings import Settings

# Whoever sends what is not good too often is asked to wait.
NOT_KNOWN = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
NOT_LET_IN = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
# What a revocation may take, on a machine that is busy with the other tests.
REVOKED_S = 10.0


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def methods(channel: grpc.aio.Channel) -> list[str]:
    """The path of every method of this package that the server offers, by reflection, which needs no credentials."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    listing = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = [one.name async for answer in listing for one in answer.list_services_response.service]
    ours = [name for name in names if name.startswith("vouchsafe.")]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in ours]
    found = []
    async for answer in stub.ServerReflectionInfo(iter(asked)):
        for data in answer.file_descriptor_response.file_descriptor_proto:
            for service in FileDescriptorProto.FromString(data).service:
                path = f"/vouchsafe.v1.{service.name}"
                found += [f"{path}/{method.name}" for method in service.method]
    assert found
    return sorted(set(found))


async def _nothing() -> AsyncIterator[Any]:
    yield b""


async def outcome(
    channel: grpc.aio.Channel, method: str, metadata: Iterable[tuple[str, str]] = ()
) -> tuple[grpc.StatusCode, str]:
    """How an empty call ends, whichever kind of method it is, and in which words."""
    call: Any = channel.stream_stream(method)(_nothing(), metadata=tuple(metadata), timeout=20)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        if error.code() in NOT_LET_IN:
            status: Any = rpc_status.from_call(error)
            info = ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.domain == "vouchsafe"
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def test_nobody_may_anything_without_credentials_that_are_good(service: Service) -> None:
    expired = await app.create_key(service.settings, "expired", Role, 1)
    revoked = await app.create_key(service.settings, "revoked", Role, None)
    await app.revoke_key(service.settings, revoked.split("_")[1])
    async with grpc.aio.insecure_channel(service.target) as channel:
        offered = await methods(channel)
        assert set(offered) == roles_by_method().keys()
        # The worker at the other end may have read the key before it was revoked.
        deadline = time.monotonic() + REVOKED_S
        while (await outcome(channel, offered[0], bearer(revoked)))[0] is not grpc.StatusCode.UNAUTHENTICATED:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        # Not all of them with each method: who is wrong too often is told to wait.
        wrong = (expired, revoked, service.api_key[:-1] + "!", "vs_", "vs__", f"vs_{'0' * 12}_secret", "x.y.z", "x")
        kinds = itertools.cycle(wrong)
        for method in offered:
            for metadata in ((), (("authorization", "Basic YTpi"),), (("x-api-key", service.api_key),)):
                code, words = await outcome(channel, method, metadata)
                assert (code, "authorization: Bearer" in words) == (grpc.StatusCode.UNAUTHENTICATED, True), method
            answers = [await outcome(channel, method, bearer(next(kinds))) for _ in range(3)]
            assert set(answers) == {(grpc.StatusCode.UNAUTHENTICATED, NOT_VALID)}, method


async def test_who_streams_is_told_why_it_is_refused_and_not_that_a_write_failed(service: Service) -> None:
    key = await app.create_key(service.settings, "streams", [Role.VIEWER], None)
    async with grpc.aio.insecure_channel(service.target) as channel:
        await known(channel, key)
        answers = [await outcome(channel, "/vouchsafe.v1.CodeService/ImportCodes", bearer(key)) for _ in range(200)]
    assert {code for code, _ in answers} == {grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("role", Role)
async def test_each_role_may_what_the_protos_say_and_nothing_else(service: Service, role: Role) -> None:
    key = await app.create_key(service.settings, f"only-{role}", [role], None)
    allowed = roles_by_method()
    async with grpc.aio.insecure_channel(service.target) as channel:
        await known(channel, key)
        for method in await methods(channel):
            code, words = await outcome(channel, method, bearer(key))
            if role in allowed[method]:
                assert code not in NOT_LET_IN, method
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED, method
                assert f"key:only-{role} has {role}" in words
                assert all(one in words for one in allowed[method])


async def known(channel: grpc.aio.Channel, key: str) -> None:
    """Returns once the worker at the other end has read the new key."""
    deadline = time.monotonic() + REVOKED_S
    any_method = next(iter(roles_by_method()))
    while (await outcome(channel, any_method, bearer(key)))[0] in NOT_KNOWN:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_revoked_key_is_refused_on_all_workers_soon(service: Service) -> None:
    key = await app.create_key(service.settings, "leaver", [Role.VIEWER], None)
    async with contextlib.AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        # So many that each worker has some of them.
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(service.target, options=options))
            for _ in range(12)
        ]
        for channel in channels:
            await known(channel, key)
        await app.revoke_key(service.settings, key.split("_")[1])
        deadline = time.monotonic() + REVOKED_S
        method = "/vouchsafe.v1.CampaignService/ListCampaigns"
        while {code for code, _ in [await outcome(one, method, bearer(key)) for one in channels]} != {
            grpc.StatusCode.UNAUTHENTICATED
        }:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_keys_hold_while_postgres_is_away_and_are_in_no_log(own_service: Service) -> None:
    settings = own_service.settings
    checkout = await app.create_key(settings, "checkout", [Role.CHECKOUT], None)
    async with own_service.client(timeout_s=30) as admin, client_of(own_service, checkout) as shop:
        id_, code = await a_campaign(admin)
        # By every worker: each connection of its own reaches one of them by chance.
        for _ in range(16):
            options = (("grpc.use_local_subchannel_pool", 1),)
            async with grpc.aio.insecure_channel(own_service.target, options=options) as channel:
                await known(channel, checkout)
        assert isinstance(await shop.redeem(code, Customer(id="c"), an_order(f"{code}-1")), Redemption)
        own_service.stop_postgres()
        await asyncio.sleep(2)
        assert isinstance(await shop.redeem(code, Customer(id="c"), an_order(f"{code}-2")), Redemption)
        with pytest.raises(PermissionDenied, match="operator"):
            await shop.pause_campaign(id_)
        async with client_of(own_service, checkout[:-1]) as stranger:
            with pytest.raises(Unauthenticated):
                await stranger.redeem(code, Customer(id="c"), an_order(f"{code}-3"))
        assert (await admin.pause_campaign(id_)).state
        own_service.start_postgres()
        await app.revoke_key(settings, checkout.split("_")[1])

        async def refused() -> None:
            with contextlib.suppress(ClientError):
                while True:
                    await shop.redeem(code, Customer(id="c"), an_order(f"{code}-4"))
                    await asyncio.sleep(0.05)

        await asyncio.wait_for(refused(), 20)
    said = own_service.said("serve") + own_service.said("persist")
    assert "keys cannot be read" in said
    for key in (checkout, own_service.api_key):
        assert key.split("_", 2)[2] not in said


def client_of(service: Service, key: str) -> Client:
    return Client(service.target, api_key=key, timeout_s=30, channels=8)


def public_keys(*keys: ed25519.Ed25519PrivateKey) -> bytes:
    parts = [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    return b"".join(parts)


OLD, NEW = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))


@pytest.fixture
def with_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that takes what OLD has signed."""
    file = tmp_path / "issuer.pem"
    put(file, public_keys(OLD))
    for name, value in {"KEYS_FILE": str(file), "ISSUER": "us", "AUDIENCE": "shop"}.items():
        monkeypatch.setenv(f"VOUCHSAFE_JWT_{name}", value)
    with Service(tmp_path / "service") as running:
        yield running


def a_token(key: ed25519.Ed25519PrivateKey, **changed: Any) -> str:
    claims = {"iss": "us", "aud": "shop", "sub": "ci", "exp": time.time() + 60, "roles": ["viewer"]} | changed
    return jwt.encode(claims, key, "EdDSA")


async def test_tokens_of_an_issuer_are_taken_and_its_keys_exchanged(with_tokens: Service) -> None:
    async def code(token: str, method: str = "ListCampaigns") -> str:
        async with grpc.aio.insecure_channel(with_tokens.target) as channel:
            found, _ = await outcome(channel, f"/vouchsafe.v1.CampaignService/{method}", bearer(token))
        return found.name

    old, new = a_token(OLD), a_token(NEW)
    assert await code(old) == "OK"
    assert await code(old, "PauseCampaign") == "PERMISSION_DENIED"
    assert await code(a_token(OLD, aud="elsewhere")) == "UNAUTHENTICATED"
    assert await code(new) == "UNAUTHENTICATED"
    put(with_tokens.settings.jwt_keys_file, public_keys(NEW))
    await asyncio.sleep(1.5)
    assert (await code(new), await code(old)) == ("OK", "UNAUTHENTICATED")
    # Keys are taken beside tokens, and a function is asked for a token before each call.
    assert await code(with_tokens.api_key) == "OK"
    async with Client(with_tokens.target, api_key=lambda: a_token(NEW)) as client:
        assert [campaign async for campaign in client.list_campaigns()] == []
    assert new.rpartition(".")[2] not in with_tokens.said("serve")


def put(file: str | Path, content: bytes) -> None:
    Path(file).write_bytes(content)


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[tuple[Settings, Certificate, Command]]:
    """A server that wants certificates, and who signs them."""
    ca = Certificate("ca")
    ca_file, _ = ca.write(tmp_path, "ca")
    cert, key = Certificate("server", ca, LOOPBACK).write(tmp_path, "server")
    changed = settings.model_copy(
        update={
            "workers": 1,
            "log_format": "json",
            "tls_cert_file": str(cert),
            "tls_key_file": str(key),
            "tls_client_ca_file": str(ca_file),
            "tls_roles": "viewer-*=viewer,spiffe://shop/ops=operator",
        }
    )
    with contextlib.closing(Command(changed, "serve", log=tmp_path / "serve.log")) as command:
        eventually(lambda: '"event": "ready"' in command.said, "it is ready")
        yield changed, ca, command


async def test_certificates_say_who_calls_and_are_exchanged_while_the_server_runs(
    running: tuple[Settings, Certificate, Command], tmp_path: Path
) -> None:
    settings, ca, command = running
    target = f"{settings.host}:{settings.port}"

    def client(trusts: Certificate, own: Certificate | None, **more: Any) -> Client:
        ca_file, _ = trusts.write(tmp_path, "trusted")
        cert, key = own.write(tmp_path, "own") if own else (None, None)
        more = {"timeout_s": 3, "channels": 1} | more
        return Client(target, tls_ca_file=ca_file, tls_cert_file=cert, tls_key_file=key, **more)

    async def asks(one: Client, *, pause: bool = False) -> str:
        with pytest.raises(ClientError) as caught:
            await (one.pause_campaign("nobody") if pause else one.get_campaign("nobody"))
        return type(caught.value).__name__

    viewer = Certificate("viewer-1", ca)
    operator = Certificate("viewer-1", ca, x509.UniformResourceIdentifier("spiffe://shop/ops"))
    async with client(ca, viewer) as standing:
        assert (await asks(standing), await asks(standing, pause=True)) == ("NotFound", "PermissionDenied")
        async with client(ca, operator) as one:
            assert await asks(one, pause=True) == "NotFound"
        for nobody in (None, Certificate("viewer-1"), Certificate("viewer-1", Certificate("ca"))):
            async with client(ca, nobody) as one:
                assert await asks(one) == "Unavailable"
        async with client(ca, Certificate("stranger", ca)) as one:
            assert await asks(one) == "PermissionDenied"
        key = await app.create_key(settings, "gateway", [Role.OPERATOR], None)
        async with client(ca, Certificate("stranger", ca), api_key=key) as one:
            await asyncio.sleep(1.5)
            assert await asks(one, pause=True) == "NotFound"
        # What is sent counts, not the certificate.
        async with client(ca, operator, api_key="vs_x_y") as one:
            assert await asks(one) == "Unauthenticated"

        other = Certificate("other ca")
        fresh = Certificate("server", other, LOOPBACK)
        put(settings.tls_cert_file, fresh.pem)
        async with client(ca, viewer) as one:
            assert await asks(one) == "NotFound"  # half of an exchange changes nothing
        eventually(lambda: "files cannot be used" in command.said, "it says so")
        put(settings.tls_key_file, fresh.key_pem)
        put(settings.tls_client_ca_file, other.pem)
        async with client(other, Certificate("viewer-2", other)) as one:
            assert await asks(one) == "NotFound"
        async with client(ca, viewer) as one:
            assert await asks(one) == "Unavailable"
        assert await asks(standing) == "NotFound"
    assert "PRIVATE KEY" not in command.said


def test_a_server_that_would_let_in_everybody_does_not_start(settings: Settings, tmp_path: Path) -> None:
    changed = settings.model_copy(update={"auth": "off", "host": "0.0.0.0", "workers": 1})  # noqa: S104
    with contextlib.closing(Command(changed, "serve", log=tmp_path / "serve.log")) as command:
        assert command.process.wait(60) == 1
        assert "VOUCHSAFE_AUTH=off would let everybody" in command.said


async def test_where_nobody_is_asked_everybody_may(settings: Settings, tmp_path: Path) -> None:
    changed = settings.model_copy(update={"auth": "off", "workers": 1, "log_format": "json"})
    with contextlib.closing(Command(changed, "serve", log=tmp_path / "serve.log")) as command:
        eventually(lambda: '"event": "ready"' in command.said, "it is ready")
        async with Client(f"{settings.host}:{settings.port}") as client:
            with pytest.raises(NotFound):
                await client.pause_campaign("nobody")
        assert "nobody is asked for credentials" in command.said
