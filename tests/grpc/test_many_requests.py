"""Batches and streams themselves: how large they are, what is no message, and what has been committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest

from tests.grpc.test_ways import World
from tests.service import Service, a_service
from tests.ways import WAYS, a_request, by_batch, by_stream, told
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub


async def test_a_batch_has_1_to_500_requests(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub = RedemptionServiceStub(channel)
        for count in (0, 501):
            batch = pb.BatchValidateAndRedeemRequest(requests=[pb.ValidateAndRedeemRequest()] * count)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.BatchValidateAndRedeem(batch, metadata=service.metadata)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_full_batch_of_orders_with_three_lines_fits(service: Service) -> None:
    async with service.client(timeout_s=30) as admin, grpc.aio.insecure_channel(service.target) as channel:
        world = World(by_batch, channel, admin, service.api_key)
        code = await world.code()
        requests = [a_request(code, id_=f"{world.name}-{number}") for number in range(500)]
        for request in requests:
            request.customer.email = "somebody.with.a.long.name@example.com"
            for number in range(2):
                request.order.lines.add(
                    sku=f"sku-of-a-usual-length-{number}",
                    product_id=f"product-{number}",
                    categories=["clothes/men/shirts", "sale/summer"],
                    quantity=2,
                    unit_price_minor=1_999,
                )
        assert pb.BatchValidateAndRedeemRequest(requests=requests).ByteSize() < service.settings.max_message_bytes / 2
        answers = await by_batch(channel, service.metadata, requests)
    assert len({one.redemption.id for one in answers if isinstance(one, pb.ValidateAndRedeemResponse)}) == 500


async def test_bytes_that_are_no_message_are_told_and_the_stream_goes_on(service: Service) -> None:
    async with service.client(timeout_s=30) as admin, grpc.aio.insecure_channel(service.target) as channel:
        world = World(by_stream, channel, admin, service.api_key)
        request = a_request(await world.code(), id_=world.name)
        method = "/vouchsafe.v1.RedemptionService/StreamValidateAndRedeem"
        line: Any = channel.stream_stream(method)(metadata=service.metadata)
        await line.write(b"\xff\xff")
        result = pb.StreamValidateAndRedeemResponse.FromString(await line.read()).result
        assert (result.request_id, told(result.error).reason) == ("", "INVALID_REQUEST")
        await line.write(pb.StreamValidateAndRedeemRequest(request=request).SerializeToString())
        assert pb.StreamValidateAndRedeemResponse.FromString(await line.read()).result.response.redemption.id
        await line.done_writing()
        assert await line.read() is grpc.aio.EOF
        assert await line.code() is grpc.StatusCode.OK


@pytest.fixture
def ledger_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    monkeypatch.setenv("VOUCHSAFE_ACKNOWLEDGE", "ledger")
    with a_service(tmp_path, pytestconfig) as running:
        yield running


async def test_with_the_contract_ledger_what_is_answered_is_in_the_ledger(ledger_service: Service) -> None:
    async with (
        ledger_service.client(timeout_s=30) as admin,
        grpc.aio.insecure_channel(ledger_service.target) as channel,
    ):
        ledger = await asyncpg.connect(ledger_service.settings.postgres_url)
        try:
            for way in WAYS.values():
                world = World(way, channel, admin, ledger_service.api_key)
                code = await world.code()
                requests = [a_request(code, id_=f"{world.name}-{number}") for number in range(50)]
                answers = await way(channel, ledger_service.metadata, requests)
                ids = [one.redemption.id for one in answers if isinstance(one, pb.ValidateAndRedeemResponse)]
                found = "select count(*) from redemptions where id = any($1)"
                assert await ledger.fetchval(found, ids) == len(set(ids)) == 50
        finally:
            await ledger.close()
