"""PostgreSQL away for too long: new uses stop in time, what was begun ends, and once it is back everything goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from tests.service import Service, a_campaign, a_service, an_order, rows_once_settled, until
from tests.valkeys import client_of
from vouchsafe.client import Customer, Offer, Redemption, Reservation, Rollback, Unavailable
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

MIB = 1_048_576
SHOPPERS = 16
# Bounds far from each other, so that a test reaches the one that it sets.
BOUNDS = {"ENTRIES": 10_000_000, "BYTES": 10_000 * MIB, "AGE_MS": 3_600_000}


@pytest.fixture
def bounded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Iterator[Service]:
    """A service with the bounds that the test names."""
    for name, bound in (BOUNDS | getattr(request, "param", {})).items():
        monkeypatch.setenv(f"VOUCHSAFE_OUTBOX_MAX_{name}", str(bound))
    with a_service(tmp_path, pytestconfig) as running:
        yield running


class Sale:
    """Shoppers that go on until they are told that the outbox is full."""

    def __init__(self, service: Service, code: str) -> None:
        self._service = service
        self._code = code
        self.acknowledged: list[str] = []
        self.refused: list[tuple[str, int]] = []

    async def run(self) -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(self._shop(shopper) for shopper in range(SHOPPERS)))

    async def _shop(self, shopper: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        async with grpc.aio.insecure_channel(self._service.target, options=options) as channel:
            stub = RedemptionServiceStub(channel)
            number = 0
            while True:
                id_ = f"{self._code}-{len(self.acknowledged)}-{shopper}-{number}"
                number += 1
                request = pb.ValidateAndRedeemRequest(
                    request_id=id_, codes=[self._code], customer=Customer(id=id_), order=an_order(id_)
                )
                try:
                    response = await stub.ValidateAndRedeem(request, timeout=10, metadata=self._service.metadata)
                except grpc.aio.AioRpcError as error:
                    self.refused.append(details_of(error))
                    return
                self.acknowledged.append(response.redemption.id)


def details_of(error: grpc.aio.AioRpcError) -> tuple[str, int]:
    """The reason why a call is UNAVAILABLE, and after how many ms to come back."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    info, retry = ErrorInfo(), RetryInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert [detail.Unpack(kind) for detail, kind in zip(status.details, (info, retry), strict=True)] == [True, True]
    return info.reason, retry.retry_delay.ToMilliseconds()


async def redeems(service: Service, code: str, order: str) -> bool:
    """Whether a use is taken now, or was with this order."""
    async with service.client(timeout_s=0.5) as client:
        try:
            outcome = await client.redeem(code, Customer(id=order), an_order(order), request_id=order)
        except Unavailable:
            return False
        assert isinstance(outcome, Redemption)
        return True


@pytest.mark.parametrize(
    "bounded", [{"ENTRIES": 400}, {"BYTES": 400_000}, {"AGE_MS": 2_000}], ids=["entries", "bytes", "age"], indirect=True
)
async def test_at_its_bound_new_uses_stop_and_what_was_begun_ends(bounded: Service) -> None:
    async with bounded.client(timeout_s=30) as client:
        id_, code = await a_campaign(client)
        sale = Sale(bounded, code)

        async def hold(order: str) -> Reservation:
            return (await client.reserve([code], Customer(id=order), an_order(order))).reservation

        one, other = await hold("order-one"), await hold("order-other")
        bounded.stop_postgres()
        await sale.run()
        assert sale.refused == [("OUTBOX_FULL", 1_000)] * SHOPPERS

        async with bounded.client(timeout_s=1.5) as hasty:
            with pytest.raises(Unavailable, match="PostgreSQL"):
                await hasty.reserve([code], Customer(id="c"), an_order("order-new"))
        assert isinstance(await client.validate(code, Customer(id="c"), an_order("order-new")), Offer)
        confirmed = await client.confirm(one.id)
        assert isinstance(confirmed, Redemption)
        assert isinstance(await client.release(other.id), Reservation)
        assert isinstance(await client.roll_back(sale.acknowledged[0], request_id="back"), Rollback)
        assert (await client.pause_campaign(id_, "PostgreSQL is away")).id == id_
        assert (await client.resume_campaign(id_)).id == id_
        assert not await redeems(bounded, code, "order-too-early")

        bounded.start_postgres()
        await until(lambda: redeems(bounded, code, "order-last"), timeout_s=30)
        last = await client.redeem(code, Customer(id="order-last"), an_order("order-last"), request_id="order-last")
        assert isinstance(last, Redemption)
        rows = await rows_once_settled(bounded, id_)
        assert len(set(sale.acknowledged)) == len(sale.acknowledged)
        assert rows > {*sale.acknowledged, last.id}
        # Of what was reserved the row is where the campaign lies, the redemption where it was decided.
        assert len(rows) == len(sale.acknowledged) + 2


async def test_new_uses_stop_before_the_memory_is_full(bounded: Service) -> None:
    async with bounded.client(timeout_s=30) as client:
        id_, code = await a_campaign(client)
        outbox = outbox_of(bounded, id_)
        with client_of(bounded.settings.valkey_url, outbox) as valkey:

            def memory() -> int:
                return int(valkey.info("memory")["used_memory"])

            # Ballast, so that the margin is that of a store in which there is something.
            max_memory, ballast = 60 * MIB, f"{outbox}:ballast"
            valkey.setrange(ballast, max_memory * 82 // 100 - memory(), b"x")
            valkey.config_set("maxmemory", max_memory)
            sale = Sale(bounded, code)
            bounded.stop_postgres()
            await sale.run()
            assert sale.refused == [("OUTBOX_FULL", 1_000)] * SHOPPERS
            assert max_memory * 0.85 <= memory() < max_memory
            bounded.start_postgres()
            assert await rows_once_settled(bounded, id_) == set(sale.acknowledged)
            # What fills it is not only what waited.
            valkey.delete(ballast)
            await until(lambda: redeems(bounded, code, "order-last"))


async def test_it_does_not_open_and_close_with_every_look(bounded: Service) -> None:
    """Only once it is clearly below its bound; and the client waits as long as it is asked to."""
    async with bounded.client(timeout_s=30) as client:
        id_, code = await a_campaign(client)
        with client_of(bounded.settings.valkey_url, outbox_of(bounded, id_)) as valkey:
            used = int(valkey.info("memory")["used_memory"])
            valkey.config_set("maxmemory", int(used / 0.86))
            await until(lambda: refuses(bounded, code))
            valkey.config_set("maxmemory", int(used / 0.83))
            for number in range(4):
                assert not await redeems(bounded, code, f"order-{number}")
            began = asyncio.get_running_loop().time()
            redeeming = asyncio.create_task(client.redeem(code, Customer(id="c"), an_order("order-late")))
            await asyncio.sleep(0.1)
            valkey.config_set("maxmemory", 10 * used)
            assert isinstance(await redeeming, Redemption)
            assert asyncio.get_running_loop().time() - began >= 1


def outbox_of(service: Service, campaign_id: str) -> str:
    return Keys(partition_of(campaign_id, service.settings.partitions)).outbox


async def refuses(service: Service, code: str) -> bool:
    """Whether both workers refuse, by asking often enough over new connections."""
    return not any(await asyncio.gather(*(redeems(service, code, f"order-{number}") for number in range(10))))
