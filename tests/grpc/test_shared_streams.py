"""The client's shared streams: what each of many tasks is answered, whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.service import CreateCampaign, Service, an_order, rows_once_settled, until
from tests.ways import a_request
from vouchsafe.client import (
    Client,
    ClientError,
    Customer,
    DeadlineExceeded,
    InvalidArgument,
    Redemption,
    Refusal,
    RequestIdReused,
    ValidateAndRedeemRequest,
    ValidateAndRedeemResponse,
)
from vouchsafe.client._streams import SharedStream
from vouchsafe.v1 import redemption_service_pb2 as pb

SHOPPER = Customer(id="c")


@pytest.fixture
async def one_line(service: Service) -> AsyncIterator[Client]:
    """A client whose tasks all share one stream."""
    async with service.client(timeout_s=30, channels=1) as connected:
        yield connected


async def test_each_task_gets_its_own_answer(one_line: Client, create_campaign: CreateCampaign) -> None:
    _, code = await create_campaign(limit=300)

    async def one(number: int) -> int:
        outcome = await one_line.redeem(
            code, Customer(id=f"c-{number}"), an_order(f"{code}-{number}", amount_minor=1_000 + 10 * number)
        )
        if isinstance(outcome, Refusal):
            return 0
        assert (outcome.customer_id, outcome.discount_minor) == (f"c-{number}", 100 + number)
        return 1

    assert sum(await asyncio.gather(*map(one, range(2_500)))) == 300


async def test_one_request_id_at_the_same_time_is_answered_to_each_for_what_it_asked(
    one_line: Client, create_campaign: CreateCampaign
) -> None:
    _, code = await create_campaign()
    for round_ in range(10):
        id_ = f"{code}-{round_}"
        orders = [an_order(id_), an_order(id_), an_order(f"{id_}-other")]
        outcomes = await asyncio.gather(
            *(one_line.redeem(code, SHOPPER, order, request_id=id_) for order in orders), return_exceptions=True
        )
        assert Counter(map(type, outcomes)) in (
            {Redemption: 2, RequestIdReused: 1},
            {Redemption: 1, RequestIdReused: 2},
        )
        for order, outcome in zip(orders, outcomes, strict=True):
            if isinstance(outcome, Redemption):
                assert outcome.order_id == order.id
            else:
                assert isinstance(outcome, RequestIdReused)
                assert outcome.request_id == id_


async def test_tasks_that_are_cancelled_leave_the_stream_to_the_others(
    service: Service, one_line: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign()
    chance = random.Random(5)

    async def one(number: int) -> Redemption | Refusal:
        id_ = f"{code}-{number}"
        return await one_line.redeem(code, SHOPPER, an_order(id_), request_id=id_)

    await one(-1)
    stream = one_line._streams[0]._stream
    tasks = [asyncio.create_task(one(number)) for number in range(1_000)]
    for number in range(0, 1_000, 3):
        asyncio.get_running_loop().call_later(chance.random() * 0.2, tasks[number].cancel)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    for number, outcome in enumerate(outcomes):
        if not isinstance(outcome, asyncio.CancelledError):
            assert isinstance(outcome, Redemption)
            assert outcome.request_id == f"{code}-{number}"
    # Asked for again, also while the first is still under way.
    again = await asyncio.gather(*map(one, range(1_000)))
    assert stream is not None
    assert one_line._streams[0]._stream is stream
    assert not stream.under_way
    ids = {outcome.id for outcome in again if isinstance(outcome, Redemption)}
    assert len(ids) == 1_000
    assert len(await rows_once_settled(service, campaign)) == 1_001


async def test_an_error_is_that_of_a_call_of_its_own(one_line: Client) -> None:
    for request_id in ("a b", "x" * 129):
        with pytest.raises(InvalidArgument) as caught:
            await one_line.redeem("CODE", SHOPPER, an_order("o"), request_id=request_id)
        assert caught.value.request_id == request_id
        assert set(caught.value.violations) == {"request_id"}


async def test_what_is_too_large_fails_alone(
    service: Service, one_line: Client, create_campaign: CreateCampaign
) -> None:
    _, code = await create_campaign()
    await one_line.redeem(code, SHOPPER, an_order(code))
    stream = one_line._streams[0]._stream
    large = Customer(id="c", email="x" * (service.settings.max_message_bytes + 1))
    one_line._timeout_s = 0.3
    with pytest.raises(ClientError, match="larger than max"):
        await one_line.redeem(code, large, an_order(f"{code}-2"))
    assert one_line._streams[0]._stream is stream
    assert stream is not None
    assert not stream.has_ended


async def test_a_call_ends_in_time_and_the_stream_stays(service: Service, create_campaign: CreateCampaign) -> None:
    _, code = await create_campaign()
    async with service.client(timeout_s=30, channels=1) as client:
        await client.redeem(code, SHOPPER, an_order(code))
        client._timeout_s = 0.000_001
        with pytest.raises(DeadlineExceeded) as caught:
            await client.redeem(code, SHOPPER, an_order(f"{code}-2"))
        client._timeout_s = 30
        outcome = await client.redeem(code, SHOPPER, an_order(f"{code}-2"), request_id=caught.value.request_id)
        assert isinstance(outcome, Redemption)


async def test_closing_ends_everything(service: Service, create_campaign: CreateCampaign) -> None:
    _, code = await create_campaign()
    before = asyncio.all_tasks()
    client = service.client(timeout_s=30, channels=2)
    await asyncio.gather(*(client.redeem(code, SHOPPER, an_order(f"{code}-{number}")) for number in range(10)))
    tasks = [asyncio.create_task(client.redeem(code, SHOPPER, an_order(f"{code}-x-{n}"))) for n in range(100)]
    await asyncio.sleep(0)
    await client.close()
    await asyncio.wait(tasks)
    assert any(task.cancelled() for task in tasks)

    async def nothing_is_left() -> bool:
        return asyncio.all_tasks() - before - set(tasks) == set()

    await until(nothing_is_left)


@contextlib.asynccontextmanager
async def a_server(name: str, method: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A server that has one method, and a channel to it."""
    server = grpc.aio.server()
    service = pb.DESCRIPTOR.services_by_name["RedemptionService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def test_a_server_without_streams_is_called_instead() -> None:
    """One of the time before there were any."""
    asked: list[str] = []

    async def redeem(request: pb.ValidateAndRedeemRequest, _: object) -> pb.ValidateAndRedeemResponse:
        asked.append(request.codes[0])
        return pb.ValidateAndRedeemResponse(refusal=Refusal(code=request.codes[0]))

    method = grpc.unary_unary_rpc_method_handler(
        redeem,
        request_deserializer=pb.ValidateAndRedeemRequest.FromString,
        response_serializer=pb.ValidateAndRedeemResponse.SerializeToString,
    )
    codes = [f"CODE-{number}" for number in range(20)]
    async with a_server("ValidateAndRedeem", method) as channel:
        shared = SharedStream(channel, tuple)
        answers = await asyncio.gather(*(shared.redeem(a_request(code, id_=code), 10) for code in codes))
    assert [answer.refusal.code for answer in answers] == codes
    assert sorted(asked) == sorted(codes)


async def test_what_was_answered_before_a_stream_ended_is_told_though_others_were_writing() -> None:
    taken = 30
    answered: set[str] = set()
    told: set[str] = set()

    async def some_and_no_more(
        requests: AsyncIterator[pb.StreamValidateAndRedeemRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        ids = [(await anext(requests)).request.request_id for _ in range(taken)]
        for id_ in ids:
            answered.add(id_)
            answer = pb.ValidateAndRedeemResponse(refusal=Refusal(code=id_))
            result = pb.RedemptionResult(request_id=id_, response=answer)
            await context.write(pb.StreamValidateAndRedeemResponse(result=result))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "over")

    method = grpc.stream_stream_rpc_method_handler(
        some_and_no_more,
        request_deserializer=pb.StreamValidateAndRedeemRequest.FromString,
        response_serializer=pb.StreamValidateAndRedeemResponse.SerializeToString,
    )
    async with a_server("StreamValidateAndRedeem", method) as channel:
        shared = SharedStream(channel, tuple)

        async def one(id_: str) -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await shared.redeem(a_request("CODE", id_=id_), 10)
                told.add(id_)

        rounds = 200
        for round_ in range(rounds):
            await asyncio.gather(*(one(f"{round_}-{number}") for number in range(2 * taken)))
        shared.close()
    assert len(answered) == rounds * taken
    assert told == answered


async def test_many_are_answered_in_order(client: Client, create_campaign: CreateCampaign) -> None:
    _, code = await create_campaign()
    requests = [a_request(code, id_=f"{code}-{number}") for number in range(50)]
    requests[7].codes[0] = "!"
    requests[8].ClearField("request_id")
    answers = await client.redeem_many(requests)
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        if number == 7:
            assert isinstance(answer, InvalidArgument)
            assert (set(answer.violations), answer.request_id) == ({"codes[0]"}, request.request_id)
        else:
            assert isinstance(answer, ValidateAndRedeemResponse)
            assert answer.redemption.order_id == request.order.id
    assert not requests[8].request_id
    assert await client.redeem_many([]) == []
    too_many = await client.redeem_many([ValidateAndRedeemRequest()] * 501)
    assert Counter(type(answer) for answer in too_many) == {InvalidArgument: 501}
