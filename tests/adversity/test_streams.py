"""Streams that meet what goes wrong: workers that die and stop, callers that leave or do not listen, keys that end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.adversity.test_access import REVOKED_S, known
from tests.guarded import a_key, fresh
from tests.service import Service, a_campaign, a_service, rows_once_settled, until
from tests.ways import a_request, told
from vouchsafe import app
from vouchsafe.client import Client, Redemption, Unauthenticated, ValidateAndRedeemRequest, ValidateAndRedeemResponse
from vouchsafe.domain.access import Role
from vouchsafe.edge.many import MAX_UNDER_WAY
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

Line = Any
# Answers that nobody reads wait in what a client says that it has room for: megabytes, if it is not told otherwise.
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))


async def write(line: Line, *requests: ValidateAndRedeemRequest) -> None:
    for request in requests:
        await line.write(pb.StreamValidateAndRedeemRequest(request=request))


@contextlib.asynccontextmanager
async def a_line(service: Service, key: str = "", ends_s: float | None = None) -> AsyncIterator[Line]:
    async with grpc.aio.insecure_channel(service.target, options=SMALL_WINDOW) as channel:
        metadata = (("authorization", f"Bearer {key or service.api_key}"),)
        line = RedemptionServiceStub(channel).StreamValidateAndRedeem(metadata=metadata, timeout=ends_s)
        yield line
        line.cancel()


async def failure(line: Line) -> tuple[list[pb.RedemptionResult], grpc.aio.AioRpcError]:
    """How a stream ends, behind which answers."""
    results: list[pb.RedemptionResult] = []
    try:
        while (message := await line.read()) is not grpc.aio.EOF:
            results.append(message.result)
    except grpc.aio.AioRpcError as error:
        return results, error
    raise AssertionError("it has not failed")


async def test_killed_workers_in_the_middle_of_streams_lose_nothing_and_double_nothing(own_service: Service) -> None:
    """The client goes on by itself: each request is answered, with one redemption."""
    async with own_service.client(timeout_s=60, channels=8) as client:
        campaign, code = await a_campaign(client)
        redeemed: dict[str, str] = {}

        async def shop(shopper: int) -> None:
            for number in range(60):
                request = a_request(code, id_=f"{code}-{shopper}-{number}")
                outcome = await client.redeem(code, request.customer, request.order, request_id=request.request_id)
                assert isinstance(outcome, Redemption)
                assert outcome.request_id == request.request_id
                assert redeemed.setdefault(request.request_id, outcome.id) == outcome.id

        async with asyncio.TaskGroup() as group:
            for shopper in range(32):
                group.create_task(shop(shopper))
            for round_ in range(1, 4):
                while len(redeemed) < 400 * round_:  # noqa: ASYNC110  # the shoppers count, nobody signals
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(own_service.kill, "worker")
        assert len(redeemed) == 32 * 60
        assert await rows_once_settled(own_service, campaign) == set(redeemed.values())
        assert (await client.get_campaign(campaign)).redeemed_count == 32 * 60


async def test_who_does_not_read_is_not_read_any_more_and_holds_up_nobody(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client, a_line(own_service) as line:
        campaign, code = await a_campaign(client)
        writing = asyncio.create_task(write(line, *(a_request(code, id_=f"{code}-{n}") for n in range(20_000))))
        before = -1

        async def stands_still() -> bool:
            nonlocal before
            await asyncio.sleep(0.5)
            count, now = before, (await client.get_campaign(campaign)).redeemed_count
            before = now
            return count == now > 0

        await until(stands_still, 60)
        # Those under way, and those whose answers lie in buffers of the connection.
        assert MAX_UNDER_WAY <= before < 2 * MAX_UNDER_WAY
        assert not writing.done()
        request = a_request(code, id_=fresh("other"))
        assert isinstance(await client.redeem(code, request.customer, request.order), Redemption)
        # It goes on as soon as it reads.
        answers = [await line.read() for _ in range(5_000)]
        assert len({answer.result.response.redemption.id for answer in answers}) == 5_000
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def test_100_streams_that_are_cut_off_leave_nothing_behind(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client)
        ids = [f"{code}-{number}-{place}" for number in range(100) for place in range(20)]

        async def cut_off(number: int) -> None:
            async with a_line(own_service) as line:
                await write(line, *(a_request(code, id_=id_) for id_ in ids[number * 20 : number * 20 + 20]))
                if number % 3 == 0:
                    await line.read()
                await asyncio.sleep(number % 7 / 1_000)

        for start in range(0, 100, 10):
            await asyncio.gather(*map(cut_off, range(start, start + 10)))
        # What had been decided is known, and what had not is decided now: each once.
        answers = await client.redeem_many([a_request(code, id_=id_) for id_ in ids[:500]])
        for start in range(500, len(ids), 500):
            answers += await client.redeem_many([a_request(code, id_=id_) for id_ in ids[start : start + 500]])
        redeemed = {one.redemption.id for one in answers if isinstance(one, ValidateAndRedeemResponse)}
        assert len(redeemed) == len(ids)
        assert await rows_once_settled(own_service, campaign) == redeemed
    assert "error" not in own_service.said("serve")


async def test_a_stream_ends_with_its_deadline(service: Service) -> None:
    async with service.client(timeout_s=30) as client, a_line(service, ends_s=1) as line:
        _, code = await a_campaign(client)
        await write(line, a_request(code, id_=code))
        results, error = await failure(line)
    assert [result.response.redemption.request_id for result in results] == [code]
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_key_that_is_revoked_ends_its_stream(service: Service) -> None:
    key = await a_key(service, Role.CHECKOUT)
    async with service.client(timeout_s=30) as client:
        _, code = await a_campaign(client)
    async with grpc.aio.insecure_channel(service.target) as channel:
        await known(channel, key)
        line: Line = RedemptionServiceStub(channel).StreamValidateAndRedeem(
            metadata=(("authorization", f"Bearer {key}"),)
        )
        await write(line, a_request(code, id_=f"{code}-first"))
        assert (await line.read()).result.response.redemption.id
        await app.revoke_key(service.settings, key.split("_")[1])

        async def go_on() -> None:
            for number in range(10_000):
                await write(line, a_request(code, id_=f"{code}-{number}"))
                await asyncio.sleep(0.25)  # seldom, for a write that meets the end hides why it came

        going_on = asyncio.create_task(go_on())
        results, error = await asyncio.wait_for(failure(line), REVOKED_S)
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert all(result.HasField("response") for result in results)


async def test_a_token_that_is_over_is_replaced_without_a_word(service: Service) -> None:
    """The function is asked for another, once for all that wait."""
    first, second = await a_key(service, Role.CHECKOUT), await a_key(service, Role.CHECKOUT)
    async with service.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    async with grpc.aio.insecure_channel(service.target) as channel:
        for key in (first, second):
            await known(channel, key)
    asked: list[str] = []
    keys = [first]

    def newest() -> str:
        asked.append(keys[-1])
        return keys[-1]

    async with Client(service.target, api_key=newest, timeout_s=30, channels=1) as shop:

        async def redeem(number: int) -> None:
            request = a_request(code, id_=f"{code}-{number}")
            assert isinstance(await shop.redeem(code, request.customer, request.order), Redemption)

        await _let_in(lambda: redeem(-1))
        asked.clear()
        await asyncio.gather(*map(redeem, range(50)))
        assert asked == []
        keys.append(second)
        await app.revoke_key(service.settings, first.split("_")[1])
        numbers = iter(range(100, 100_000, 50))

        async def is_replaced() -> bool:
            start = next(numbers)
            await asyncio.gather(*map(redeem, range(start, start + 50)))
            return bool(asked)

        await until(is_replaced)
        assert asked == [second]
        # And when there is no other, that is told.
        await app.revoke_key(service.settings, second.split("_")[1])
        with pytest.raises(Unauthenticated):
            await _for_ever(redeem)


async def _let_in(call: Callable[[], Awaitable[None]]) -> None:
    """Once the worker has read the key."""
    async with asyncio.timeout(20):
        while True:
            try:
                await call()
            except Unauthenticated:
                await asyncio.sleep(0.1)
            else:
                return


async def _for_ever(redeem: Callable[[int], Awaitable[None]]) -> None:
    async with asyncio.timeout(20):
        for number in range(200_000, 300_000):
            await redeem(number)
            await asyncio.sleep(0.02)


async def test_sigterm_answers_what_is_under_way_and_ends_streams_well_within_the_grace(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client)
    async with a_line(own_service) as idle, a_line(own_service) as busy:
        for line in (idle, busy):
            await write(line, a_request(code, id_=fresh("x")))
            await line.read()
        ids = [f"{code}-{number}" for number in range(300)]
        await write(busy, *(a_request(code, id_=id_) for id_ in ids))
        await busy.read()
        began = time.monotonic()
        own_service.stop_server()
        for line in (idle, busy):
            results, error = await failure(line)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "open another stream" in (error.details() or "")
        assert await asyncio.to_thread(own_service.wait_for_server) == 0
    assert time.monotonic() - began < own_service.settings.shutdown_grace_ms / 1000 / 2
    # Whatever was decided was answered.
    redeemed = {result.response.redemption.id for result in results}
    assert len(await rows_once_settled(own_service, campaign)) == len(redeemed) + 3


@pytest.fixture
def narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    """A worker with room for few."""
    monkeypatch.setenv("VOUCHSAFE_MAX_WAITING", "50")
    with a_service(tmp_path, pytestconfig, workers=1) as running:
        yield running


async def test_admission_counts_requests_and_not_calls(narrow: Service) -> None:
    async with narrow.client(timeout_s=60) as client, grpc.aio.insecure_channel(narrow.target) as channel:
        campaign, code = await a_campaign(client)
        requests = [a_request(code, id_=f"{code}-{number}") for number in range(500)]
        batch = pb.BatchValidateAndRedeemRequest(requests=requests)
        stub = RedemptionServiceStub(channel)
        results = (await stub.BatchValidateAndRedeem(batch, metadata=narrow.metadata)).results
        count = Counter("redeemed" if one.HasField("response") else told(one.error).reason for one in results)
        assert count.keys() == {"redeemed", "OVERLOADED"}
        assert all(told(one.error).is_repeatable for one in results if one.HasField("error"))
        # The client repeats those that may fare better, and no others.
        answers = await client.redeem_many(requests)
        redeemed = {one.redemption.id for one in answers if isinstance(one, ValidateAndRedeemResponse)}
        assert len(redeemed) == 500
        before = {one.response.redemption.id for one in results if one.HasField("response")}
        assert before < redeemed
        assert await rows_once_settled(narrow, campaign) == redeemed
