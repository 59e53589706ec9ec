"""The contract `ledger`, over the whole service: what is answered is in PostgreSQL at that moment, so the gate may lose
everything."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest

from tests.grpc.test_combined import create
from tests.service import Service, a_campaign, a_service, an_order, check_agrees, rows_once_settled, settle, until
from vouchsafe.client import (
    Client,
    ClientError,
    Customer,
    DeadlineExceeded,
    Redemption,
    Reservation,
    Rollback,
    Unavailable,
    ValidateAndRedeemResponse,
)
from vouchsafe.domain.redemption import Position
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemRequest
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

SHOPPERS = 16
CAP = 2_000
AT_PLACE = "select kind from events where partition = $1 and epoch = $2 and ms = $3 and seq = $4"


@pytest.fixture
def ledger_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    monkeypatch.setenv("VOUCHSAFE_ACKNOWLEDGE", "ledger")
    monkeypatch.setenv("VOUCHSAFE_LEDGER_TIMEOUT_MS", "1000")
    with a_service(tmp_path, pytestconfig) as running:
        yield running
        check_agrees(running)


@pytest.fixture
async def client(ledger_service: Service) -> AsyncIterator[Client]:
    async with ledger_service.client(timeout_s=30, channels=8) as connected:
        yield connected


class Witness:
    """Looks into PostgreSQL over a connection of its own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def has(self, id_: str) -> bool:
        """Whether the event is there now that an id names."""
        partition, epoch, (ms, seq) = Position.parse(id_)
        place = (partition, epoch, ms, seq)
        return await self._connection.fetchval(AT_PLACE, *place) is not None


async def _trade(service: Service, client: Client, codes: list[str], shopper: int, rounds: int) -> None:
    """Everything that has a place in the ledger; whatever is answered is there."""
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        witness = Witness(connection)
        for number in range(rounds):
            order, customer = an_order(f"{codes[0]}-{shopper}-{number}"), Customer(id=f"c-{shopper}")
            request_id = f"{order.id}-request"
            redeemed = await client.redeem(codes[0], customer, order, request_id=request_id)
            assert isinstance(redeemed, Redemption)
            assert await witness.has(redeemed.id)
            assert await client.redeem(codes[0], customer, order, request_id=request_id) == redeemed
            rolled_back = await client.roll_back(redeemed.id)
            assert isinstance(rolled_back, Rollback)
            assert await witness.has(rolled_back.id)
            order.id += "-more"
            response = await client.redeem_codes(codes, customer, order)
            assert await witness.has(response.redemption.id)
            order.id += "-held"
            held = (await client.reserve(codes, customer, order)).reservation
            confirmed = await client.confirm(held.id)
            assert isinstance(confirmed, Redemption)
            assert await witness.has(confirmed.id)
            assert await client.confirm(held.id) == confirmed
    finally:
        await connection.close()


async def test_what_is_answered_is_in_postgresql_at_that_moment(ledger_service: Service, client: Client) -> None:
    codes = [await create(client, 1_000) for _ in range(2)]
    await asyncio.gather(*(_trade(ledger_service, client, codes, shopper, 5) for shopper in range(8)))


async def redeem_once(service: Service, code: str, request_id: str) -> Redemption:
    """One call, not repeated. Raises AioRpcError."""
    request = ValidateAndRedeemRequest(
        request_id=request_id, codes=[code], customer=Customer(id="c"), order=an_order(request_id)
    )
    async with grpc.aio.insecure_channel(service.target) as channel:
        return (
            await RedemptionServiceStub(channel).ValidateAndRedeem(request, timeout=20, metadata=service.metadata)
        ).redemption


async def not_confirmed(service: Service, code: str, request_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="PostgreSQL has not confirmed in time") as caught:
        await redeem_once(service, code, request_id)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_a_persister_nothing_is_acknowledged_and_the_outcome_stands(
    ledger_service: Service, client: Client
) -> None:
    campaign, code = await a_campaign(client, limit=1)
    other, other_code = await a_campaign(client)
    held = (await client.reserve([other_code], Customer(id="c"), an_order(other))).reservation
    request_id = str(uuid.uuid4())
    with ledger_service.frozen("persist"):
        await not_confirmed(ledger_service, code, request_id)
        # Told again what was recorded, which is as far from PostgreSQL as before.
        await not_confirmed(ledger_service, code, request_id)
        # What gives back or stops waits for no ledger.
        assert isinstance(await client.release(held.id), Reservation)
        assert (await client.pause_campaign(other, "while nobody persists")).pause_reason == "while nobody persists"
        assert (await client.get_campaign(campaign)).redeemed_count == 1
    redeemed = await redeem_once(ledger_service, code, request_id)
    assert await redeem_once(ledger_service, code, request_id) == redeemed
    assert await rows_once_settled(ledger_service, campaign) == {redeemed.id}


async def test_no_part_is_redeemed_before_the_whole_is_in_postgresql(ledger_service: Service, client: Client) -> None:
    """A failover may lose a decision that is not: a part that was redeemed already would be one of nothing."""
    codes = [await create(client, 1_000) for _ in range(3)]
    request_id = str(uuid.uuid4())

    async def redeem() -> ValidateAndRedeemResponse:
        return await client.redeem_codes(codes, Customer(id="c"), an_order(request_id), request_id=request_id)

    async def counted() -> list[tuple[int, int]]:
        stats = [(await client.get_campaign_stats(code)).gate for code in codes]
        return [(one.redeemed_count, one.held_count) for one in stats]

    with ledger_service.frozen("persist"):
        async with ledger_service.client(timeout_s=2) as hasty:
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await hasty.redeem_codes(codes, Customer(id="c"), an_order(request_id), request_id=request_id)
        assert await counted() == [(0, 1)] * 3
    redeemed = (await redeem()).redemption
    await settle(ledger_service.settings)

    async def is_settled() -> bool:
        return await counted() == [(1, 0)] * 3

    await until(is_settled)
    assert (await redeem()).redemption == redeemed


async def test_a_reservation_whose_time_is_over_is_told_without_postgresql(
    ledger_service: Service, client: Client
) -> None:
    """What it held may have been lost before it got there, and then it never will."""
    _, code = await a_campaign(client)
    order, request_id = an_order(code), str(uuid.uuid4())
    with ledger_service.frozen("persist"):
        async with ledger_service.client(timeout_s=1.5) as hasty:
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await hasty.reserve([code], Customer(id="c"), order, ttl_s=4, request_id=request_id)

        async def told() -> bool:
            try:
                answer = await client.reserve([code], Customer(id="c"), order, ttl_s=4, request_id=request_id)
            except Unavailable:
                return False
            return answer.reservation.expire_time.ToMilliseconds() <= time.time_ns() // 1_000_000

        await until(told)


async def test_postgresql_away_stops_redeeming_but_not_pausing(ledger_service: Service, client: Client) -> None:
    campaign, code = await a_campaign(client)
    request_id = str(uuid.uuid4())
    ledger_service.stop_postgres()
    await not_confirmed(ledger_service, code, request_id)
    assert (await client.pause_campaign(campaign, "PostgreSQL is away")).pause_reason == "PostgreSQL is away"
    ledger_service.start_postgres()
    outcome = await client.redeem(code, Customer(id="c"), an_order(request_id), request_id=request_id)
    assert isinstance(outcome, Redemption)
    assert await rows_once_settled(ledger_service, campaign) == {outcome.id}
    assert await ledger_service.taken_while_paused(campaign) == 0


async def test_what_goes_alone_finds_out_that_postgresql_is_back(ledger_service: Service, client: Client) -> None:
    """With nobody's help: of what is asked now and then, each may be the one that finds out."""
    codes = [await create(client, 1_000) for _ in range(2)]
    ledger_service.stop_postgres()
    await not_confirmed(ledger_service, codes[0], str(uuid.uuid4()))
    ledger_service.start_postgres()
    response = await client.redeem_codes(codes, Customer(id="c"), an_order(str(uuid.uuid4())))
    assert response.HasField("redemption")


async def _shop(service: Service, code: str, shopper: int, told: set[str]) -> None:
    """Until the first call that is not answered."""
    async with service.client(timeout_s=1, channels=1) as client:
        for number in range(CAP):
            order = an_order(f"{code}-{shopper}-{number}")
            try:
                outcome: Any = await client.redeem(code, Customer(id=f"c-{shopper}"), order)
            except ClientError:
                return
            if isinstance(outcome, Redemption):
                told.add(outcome.id)


async def test_the_gate_loses_everything_while_all_are_killed(ledger_service: Service, client: Client) -> None:
    _campaign, code = await a_campaign(client, limit=CAP)
    told: set[str] = set()
    shoppers = [asyncio.create_task(_shop(ledger_service, code, shopper, told)) for shopper in range(SHOPPERS)]
    async with asyncio.timeout(30):
        while len(told) < 200:  # noqa: ASYNC110  # what is waited for is counted, nobody signals
            await asyncio.sleep(0.01)
    await ledger_service.flush_valkey()
    await asyncio.to_thread(ledger_service.kill, "persister", "server", "valkey", "postgres")
    await asyncio.gather(*shoppers)
    connection = await asyncpg.connect(ledger_service.settings.postgres_url)
    try:
        rows = [row["id"] for row in await connection.fetch("select id from redemptions")]
    finally:
        await connection.close()
    assert told <= set(rows)
    assert len(set(rows)) == len(rows) <= CAP
