"""More come than can be answered: what is taken on is answered, the rest is told at once, and operators are next."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from tests.guarded import PATIENCE_MS, counted
from tests.service import Service, a_campaign, a_service, an_order, check_agrees, rows_once_settled, until
from vouchsafe.client import Client, Customer
from vouchsafe.embedded import free_port
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

SLOTS = 8
CALLS = 20
PATIENCE_S = 60
REFUSED = "vouchsafe_overloaded_total"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    """A worker that takes on eight at once, and answers once PostgreSQL has it: not while the persister is frozen."""
    monkeypatch.setenv("VOUCHSAFE_ACKNOWLEDGE", "ledger")
    monkeypatch.setenv("VOUCHSAFE_LEDGER_TIMEOUT_MS", "60000")
    monkeypatch.setenv("VOUCHSAFE_GATE_TIMEOUT_MS", PATIENCE_MS)
    monkeypatch.setenv("VOUCHSAFE_MAX_WAITING", str(SLOTS))
    monkeypatch.setenv("VOUCHSAFE_SERVER_METRICS_PORT", str(free_port()))
    with a_service(tmp_path, pytestconfig, workers=1) as running:
        yield running
        check_agrees(running)


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    """A worker for which nobody may wait."""
    monkeypatch.setenv("VOUCHSAFE_GATE_TIMEOUT_MS", PATIENCE_MS)
    monkeypatch.setenv("VOUCHSAFE_MAX_WAIT_MS", "10")
    monkeypatch.setenv("VOUCHSAFE_SERVER_METRICS_PORT", str(free_port()))
    with a_service(tmp_path, pytestconfig, workers=1) as running:
        yield running
        check_agrees(running)


class Shoppers:
    """Calls of which none is repeated."""

    def __init__(self, service: Service, channel: grpc.aio.Channel, code: str) -> None:
        self.stub: Any = RedemptionServiceStub(channel)
        self._metadata = service.metadata
        self._code = code

    def request(self) -> pb.ValidateAndRedeemRequest:
        id_ = str(uuid.uuid4())
        return pb.ValidateAndRedeemRequest(
            request_id=id_, codes=[self._code], customer=Customer(id=id_), order=an_order(id_)
        )

    async def redeem(self, timeout_s: float = PATIENCE_S) -> str:
        """ "redeemed", or the reason, or the status."""
        try:
            answer = await self.stub.ValidateAndRedeem(self.request(), metadata=self._metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return reason_of(error) if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else error.code().name
        return "redeemed" if answer.HasField("redemption") else "refused"

    async def batch(self, size: int) -> Counter[str]:
        """What came of each."""
        request = pb.BatchValidateAndRedeemRequest(requests=[self.request() for _ in range(size)])
        answer = await self.stub.BatchValidateAndRedeem(request, metadata=self._metadata, timeout=PATIENCE_S)
        return Counter(
            "redeemed" if one.response.HasField("redemption") else _reason_in(one.error) for one in answer.results
        )

    async def hold_all(self) -> list[asyncio.Task[str]]:
        """So many calls at once that all slots are taken and exactly the others refused; those that hold the slots."""
        tasks = [asyncio.create_task(self.redeem()) for _ in range(CALLS)]
        async with asyncio.timeout(PATIENCE_S):
            while len(held := [task for task in tasks if not task.done()]) > SLOTS:
                await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert len(held) == SLOTS
        assert Counter(task.result() for task in tasks if task.done()) == {"OVERLOADED": CALLS - SLOTS}
        return held


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None
    return _reason_in(status)


def _reason_in(status: Any) -> str:
    """The reason of a refusal, which says when to come back."""
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert 0.25 <= retry.retry_delay.ToMilliseconds() / 1_000 <= 1
    return info.reason


@pytest.fixture
async def operator(small: Service) -> AsyncIterator[Client]:
    async with small.client(timeout_s=30, channels=2) as connected:
        yield connected


async def test_so_many_are_taken_on_and_every_slot_is_given_back(small: Service, operator: Client) -> None:
    id_, code = await a_campaign(operator)
    other, _ = await a_campaign(operator)
    options = (("grpc.enable_retries", 0),)
    async with grpc.aio.insecure_channel(small.target, options=options) as channel:
        shoppers = Shoppers(small, channel, code)

        # Answered: by success, and by an error of the caller's.
        assert await asyncio.gather(*(shoppers.redeem() for _ in range(SLOTS))) == ["redeemed"] * SLOTS
        shoppers_of_none = Shoppers(small, channel, "not a code")
        for _ in range(2 * SLOTS):
            assert await shoppers_of_none.redeem() == "INVALID_ARGUMENT"

        with small.frozen("persist"):
            held = await shoppers.hold_all()
            # Operators, and who looks something up, get through meanwhile.
            await operator.pause_campaign(other, "all slots are taken")
            await until(lambda: _counts(operator, id_, 2 * SLOTS))
            assert await shoppers.batch(5) == {"OVERLOADED": 5}
        assert await asyncio.gather(*held) == ["redeemed"] * SLOTS

        # Their deadline passes, or they go away.
        with small.frozen("persist"):
            late = [shoppers.redeem(timeout_s=1) for _ in range(SLOTS)]
            assert await asyncio.gather(*late) == ["DEADLINE_EXCEEDED"] * SLOTS
            gone = await shoppers.hold_all()
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            await until(lambda: _nobody_is_held(shoppers))
            await _come_and_go(shoppers, 1_000)
            await until(lambda: _nobody_is_held(shoppers))
            held = await shoppers.hold_all()
        assert await asyncio.gather(*held) == ["redeemed"] * SLOTS

        # Of a batch, as many as there is room for.
        with small.frozen("persist"):
            before, redeemed = counted(small)[REFUSED], (await operator.get_campaign(id_)).redeemed_count
            batch = asyncio.create_task(shoppers.batch(CALLS))
            await until(lambda: _counts(operator, id_, redeemed + SLOTS))
        assert await batch == {"redeemed": SLOTS, "OVERLOADED": CALLS - SLOTS}
        await until(lambda: _were_refused(small, before + CALLS - SLOTS))
        assert counted(small)["vouchsafe_admission_limit"] == SLOTS


async def _counts(operator: Client, campaign_id: str, redeemed: int) -> bool:
    return (await operator.get_campaign(campaign_id)).redeemed_count == redeemed


async def _nobody_is_held(shoppers: Shoppers) -> bool:
    """Whether all slots are free, found out by taking all and giving them back; a caller that goes is noticed soon."""
    tasks = [asyncio.create_task(shoppers.redeem()) for _ in range(SLOTS)]
    done, held = await asyncio.wait(tasks, timeout=0.5)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    return not done


async def _were_refused(service: Service, count: float) -> bool:
    """Whether so many are counted; it takes a moment until they are."""
    return (await asyncio.to_thread(counted, service))[REFUSED] >= count


async def _come_and_go(shoppers: Shoppers, calls: int) -> None:
    """Callers who go away at any moment."""
    chance = random.Random(5)
    tasks = []
    for number in range(calls):
        tasks.append(asyncio.create_task(shoppers.redeem()))
        asyncio.get_running_loop().call_later(chance.random() * 0.05, tasks[-1].cancel)
        if number % 20 == 0:
            await asyncio.sleep(chance.random() * 0.02)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nothing_is_redeemed_without_an_answer_and_operators_are_next(hasty: Service) -> None:
    async with hasty.client(timeout_s=30, channels=2) as operator:
        id_, code = await a_campaign(operator)
        other, _ = await a_campaign(operator)
        ends: Counter[str] = Counter()
        over = asyncio.Event()

        async def shop(shoppers: Shoppers) -> None:
            while not over.is_set():
                ends[await shoppers.redeem()] += 1

        options = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
        channels = [grpc.aio.insecure_channel(hasty.target, options=options) for _ in range(4)]
        async with asyncio.TaskGroup() as crowd:
            for number in range(200):
                crowd.create_task(shop(Shoppers(hasty, channels[number % 4], code)))
            await until(lambda: _happened(ends, "redeemed", "OVERLOADED"), timeout_s=60)
            for _ in range(5):
                await operator.pause_campaign(other, "in overload")
                await operator.resume_campaign(other)
            over.set()
        await asyncio.gather(*(channel.close() for channel in channels))
        # gRPC drops what Python would not come to refuse.
        assert set(ends) <= {"redeemed", "OVERLOADED", "CANCELLED"}, ends
        assert (await operator.get_campaign(id_)).redeemed_count == ends["redeemed"]
    assert len(await rows_once_settled(hasty, id_)) == ends["redeemed"]

    async def is_told() -> bool:
        """A worker's figures are brought up to date with its next look at itself."""
        found = await asyncio.to_thread(counted, hasty)
        return (found[REFUSED], found["vouchsafe_admitted_total"]) == (ends["OVERLOADED"], ends["redeemed"])

    await until(is_told)


async def _happened(ends: Counter[str], *wanted: str) -> bool:
    return all(ends[one] for one in wanted)
