"""Following what a campaign has given."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tests.service import CreateCampaign, Service, a_campaign, a_service, an_order, settle
from vouchsafe.client import (
    CampaignState,
    CampaignStats,
    Client,
    Customer,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from vouchsafe.client._errors import from_rpc_error
from vouchsafe.v1.campaign_service_pb2 import WatchCampaignRequest, WatchCampaignResponse
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceStub

SHOPPER = Customer(id="customer-1")
WAIT_S = 30.0
MAX_WATCHERS = 3

Call = grpc.aio.UnaryStreamCall[WatchCampaignRequest, WatchCampaignResponse]


@pytest.fixture
def small_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    """One worker, which takes on few watchers."""
    monkeypatch.setenv("VOUCHSAFE_MAX_WATCHERS", f"{MAX_WATCHERS}")
    with a_service(tmp_path, pytestconfig, workers=1) as running:
        yield running


@asynccontextmanager
async def watching(service: Service, campaign_id: str) -> AsyncIterator[Call]:
    """A stream without the client, which would open it again; left, the server is told at once."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        call: Call = CampaignServiceStub(channel).WatchCampaign(
            WatchCampaignRequest(campaign_id=campaign_id), metadata=service.metadata
        )
        yield call
        call.cancel()


async def read(call: Call) -> CampaignStats:
    response = await asyncio.wait_for(call.read(), WAIT_S)
    assert isinstance(response, WatchCampaignResponse)
    return response.stats


async def until(call: Call, wanted: Callable[[CampaignStats], bool]) -> CampaignStats:
    while not wanted(stats := await read(call)):
        pass
    return stats


async def failure(call: Call) -> grpc.aio.AioRpcError:
    """What the stream ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await until(call, lambda _: False)
    return caught.value


async def test_the_first_state_comes_at_once_and_is_what_stats_say(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign()
    await client.redeem(code, SHOPPER, an_order(code))
    await settle(service.settings)
    async with watching(service, campaign) as call:
        async with asyncio.timeout(1):
            first = await read(call)
    stats = await client.get_campaign_stats(campaign)
    stats.gate_time.CopyFrom(first.gate_time)
    assert first == stats
    assert first.gate.redeemed_count == first.ledger.redeemed_count == 1


async def test_changes_arrive_in_both_stores_and_in_the_state(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign()
    async with watching(service, campaign) as call:
        assert (await read(call)).gate.redeemed_count == 0
        await client.redeem(code, SHOPPER, an_order(code))
        await until(call, lambda stats: stats.gate.redeemed_count == 1)
        await client.pause_campaign(campaign)
        paused = await until(call, lambda stats: stats.state == CampaignState.CAMPAIGN_STATE_PAUSED)
        if paused.ledger.redeemed_count != 1:
            await until(call, lambda stats: stats.ledger.redeemed_count == 1)


async def test_a_change_that_never_ends_is_told_once_a_second_and_the_newest_at_last(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign()
    stop = asyncio.Event()
    redeemed = 0

    async def shop() -> None:
        nonlocal redeemed
        while not stop.is_set():
            await client.redeem(code, SHOPPER, an_order(f"{code}-{redeemed}"))
            redeemed += 1

    shopping = asyncio.create_task(shop())
    async with watching(service, campaign) as call:
        began, received = time.monotonic(), 0
        while time.monotonic() - began < 4:
            await read(call)
            received += 1
        took_s = time.monotonic() - began
        stop.set()
        await shopping
        assert 3 <= received <= 1 + took_s
        await until(call, lambda stats: stats.gate.redeemed_count == redeemed)


async def test_nothing_arrives_while_nothing_changes(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, _ = await create_campaign()
    await settle(service.settings)
    async with watching(service, campaign) as call:
        await read(call)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), 3)
    # Looking on was not what it missed.
    assert (await client.get_campaign_stats(campaign)).gate.redeemed_count == 0


async def test_what_cannot_be_watched_is_told(service: Service) -> None:
    async with watching(service, "nobody") as call:
        assert isinstance(from_rpc_error(await failure(call)), NotFound)
    async with watching(service, "NOT AN ID") as call:
        error = from_rpc_error(await failure(call))
    assert isinstance(error, InvalidArgument)
    assert list(error.violations) == ["campaign_id"]


async def test_watchers_are_bounded_and_one_who_leaves_makes_room(small_service: Service) -> None:
    async with small_service.client(timeout_s=WAIT_S) as client, AsyncExitStack() as stack:
        campaign, _ = await a_campaign(client)
        calls = [await stack.enter_async_context(watching(small_service, campaign)) for _ in range(MAX_WATCHERS)]
        await asyncio.gather(*map(read, calls))
        async with watching(small_service, campaign) as refused:
            error = await failure(refused)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{MAX_WATCHERS} callers are watching" in (error.details() or "")
        async with aclosing(client.watch_campaign(campaign)) as states:
            # The client asks again until there is room.
            waiting = asyncio.ensure_future(anext(states))
            calls[0].cancel()
            assert (await waiting).campaign_id == campaign


async def test_nobody_who_leaves_keeps_a_place(small_service: Service) -> None:
    async with small_service.client(timeout_s=WAIT_S) as client:
        campaign, _ = await a_campaign(client)
        for _ in range(5):
            async with AsyncExitStack() as stack:
                # All places are free, or become so: the client asks again.
                streams = [
                    await stack.enter_async_context(aclosing(client.watch_campaign(campaign)))
                    for _ in range(MAX_WATCHERS)
                ]
                await asyncio.gather(*map(anext, streams))
            for number in range(10):
                # Cut off without a word, at any moment.
                async with grpc.aio.insecure_channel(small_service.target) as channel:
                    await channel.channel_ready()
                    CampaignServiceStub(channel).WatchCampaign(
                        WatchCampaignRequest(campaign_id=campaign), metadata=small_service.metadata
                    )
                    await asyncio.sleep(number / 1_000)
    assert "internal error" not in small_service.said("serve")


async def test_sigterm_ends_watching_at_once_and_the_server_well_within_its_grace(own_service: Service) -> None:
    async with own_service.client(timeout_s=WAIT_S) as client:
        campaign, _ = await a_campaign(client)
    async with watching(own_service, campaign) as first, watching(own_service, campaign) as second:
        await asyncio.gather(read(first), read(second))
        began = time.monotonic()
        own_service.stop_server()
        for call in (first, second):
            error = await failure(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in (error.details() or "")
        assert await asyncio.to_thread(own_service.wait_for_server) == 0
    assert time.monotonic() - began < own_service.settings.shutdown_grace_ms / 1000 / 2


async def test_the_client_goes_on_after_the_server_was_killed(own_service: Service) -> None:
    async with own_service.client(timeout_s=WAIT_S, channels=2) as client:
        campaign, code = await a_campaign(client)
        async with aclosing(client.watch_campaign(campaign)) as states:
            assert (await anext(states)).gate.redeemed_count == 0
            await asyncio.to_thread(own_service.kill, "server")
            await client.redeem(code, SHOPPER, an_order(code))
            while (await anext(states)).gate.redeemed_count == 0:
                pass


async def test_the_client_gives_up_when_nothing_comes() -> None:
    # The kernel takes connections on, and nobody says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5) as client:
            with pytest.raises(DeadlineExceeded, match="no answer in time"):
                await anext(client.watch_campaign("sale"))


async def test_without_postgresql_the_book_is_left_out_and_without_valkey_the_stream_ends(own_service: Service) -> None:
    async with own_service.client(timeout_s=WAIT_S) as client:
        campaign, _ = await a_campaign(client)
    async with watching(own_service, campaign) as call:
        await until(call, lambda stats: stats.HasField("ledger"))
        own_service.stop_postgres()
        await until(call, lambda stats: not stats.HasField("ledger") and not stats.ledger_position)
        own_service.start_postgres()
        await until(call, lambda stats: stats.HasField("ledger"))
        own_service.stop_valkey()
        assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE
    async with own_service.client(timeout_s=1) as client, aclosing(client.watch_campaign(campaign)) as states:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await anext(states)
        assert time.monotonic() - began < 3
    own_service.start_valkey()
    async with (
        own_service.client(timeout_s=WAIT_S) as client,
        aclosing(client.watch_campaign(campaign)) as again,
    ):
        assert (await anext(again)).campaign_id == campaign
