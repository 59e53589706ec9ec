"""Kill switches under load: whatever is under way, nothing is taken once one has answered, by clock and by stream."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext

import pytest

from tests.grpc.test_combined import create
from tests.service import Service, a_service, an_order, check_agrees, settle
from vouchsafe import app
from vouchsafe.client import Client, ClientError, Customer, KillSwitchScope, Redemption, Reservation

SHOPPERS = 48


class Crowd:
    """Shoppers who redeem one code, two codes together, or hold and confirm; `late` counts what they got of a call that
    began once `stopped` was set."""

    def __init__(self, client: Client, codes: Sequence[str]) -> None:
        self._client = client
        self._codes = codes
        # What an order has already it would be told again.
        self._name = uuid.uuid4()
        self.stopped = asyncio.Event()
        self.got = self.late = self.errors = 0
        self._over = asyncio.Event()

    async def shop(self, shopper: int) -> None:
        for number in itertools.count():
            if self._over.is_set():
                return
            began_late = self.stopped.is_set()
            try:
                taken = await self._take(shopper, number)
            except ClientError:
                self.errors += 1
                continue
            self.got += taken
            self.late += taken and began_late

    async def _take(self, shopper: int, number: int) -> bool:
        customer, order = Customer(id=f"c-{shopper}"), an_order(f"{self._name}-{shopper}-{number}")
        match number % 3:
            case 0:
                return isinstance(
                    await self._client.redeem(self._codes[number % len(self._codes)], customer, order), Redemption
                )
            case 1:
                return (await self._client.redeem_codes(self._codes, customer, order)).HasField("redemption")
            case _:
                held = (await self._client.reserve(self._codes[:1], customer, order, ttl_s=60)).reservation
                if not held.id:
                    return False
                confirmed = await self._client.confirm(held.id)
                if not isinstance(confirmed, Redemption):
                    assert isinstance(await self._client.release(held.id), Reservation)
                return isinstance(confirmed, Redemption)

    @asynccontextmanager
    async def at_it(self) -> AsyncIterator[None]:
        shoppers = [asyncio.create_task(self.shop(number)) for number in range(SHOPPERS)]
        try:
            yield
        finally:
            self._over.set()
            await asyncio.wait_for(asyncio.gather(*shoppers), 60)


async def pause_and_check(service: Service, client: Client, scope: KillSwitchScope, codes: Sequence[str]) -> None:
    crowd = Crowd(client, codes)
    async with crowd.at_it():
        await reach(lambda: crowd.got >= 150)
        await client.engage_kill_switch(scope, "under load")
        crowd.stopped.set()
        got = crowd.got
        await reach(lambda: crowd.late == 0, rounds=30)
        # What was under way may still have been told; nothing else.
        assert crowd.got <= got + SHOPPERS
        assert crowd.late == 0
        crowd.stopped.clear()
        await client.release_kill_switch(scope)
        got = crowd.got
        await reach(lambda: crowd.got > got + 50)
    await settle(service.settings)


async def reach(holds: Callable[[], bool], rounds: int = 0) -> None:
    """Returns once it holds; with `rounds` it has to hold for so many looks."""
    async with asyncio.timeout(60):
        while not holds() or rounds > 0:
            await asyncio.sleep(0.01)
            rounds -= 1


@pytest.mark.parametrize("kind", ["everything", "label", "code"])
async def test_nothing_is_taken_after_a_kill_switch_has_answered(own_service: Service, kind: str) -> None:
    async with own_service.client(timeout_s=30, channels=8) as client:
        codes = [await create(client, labels=["sale"]) for _ in range(2)]
        scopes = {
            "everything": KillSwitchScope(everything=True),
            "label": KillSwitchScope(label="sale"),
            "code": KillSwitchScope(code=codes[0]),
        }
        for _ in range(3):
            await pause_and_check(own_service, client, scopes[kind], codes[:1] if kind == "code" else codes)
    found = await app.stops(own_service.settings, 100)
    assert len(found) == 3
    assert all(one.taken == 0 and one.end_time_ms is not None for one in found), found


@pytest.fixture(scope="module")
def four_workers(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Service]:
    """For all repetitions: what is repeated is the stop, not the start."""
    with a_service(tmp_path_factory.mktemp("stopping"), pytestconfig, workers=4) as running:
        yield running
        check_agrees(running)


@contextmanager
def without_postgres(service: Service) -> Iterator[None]:
    service.stop_postgres()
    try:
        yield
    finally:
        service.start_postgres()


# --repeat 200 is what docs/stopping.md speaks of.
@pytest.mark.parametrize("adversity", ["none", "PostgreSQL is stopped", "a worker stands still"])
@pytest.mark.parametrize("what", ["campaign", "everything"])
async def test_four_workers_take_nothing_behind_a_stop(four_workers: Service, what: str, adversity: str) -> None:
    """The worker that stands still wakes up behind the answer, with all that it was about to do."""
    everything = KillSwitchScope(everything=True)
    async with (
        four_workers.client(timeout_s=30, channels=1) as operator,
        four_workers.client(timeout_s=30, channels=8) as shop,
    ):
        before = four_workers.connected_from()
        code = await create(operator)
        mine = four_workers.connected_from() - before
        assert len(mine) == 1
        adversities: dict[str, AbstractContextManager[None]] = {
            "none": nullcontext(),
            "PostgreSQL is stopped": without_postgres(four_workers),
            "a worker stands still": four_workers.one_frozen(mine),
        }
        crowd = Crowd(shop, [code])
        async with crowd.at_it():
            await reach(lambda: crowd.got >= 50)
            with adversities[adversity]:
                if what == "campaign":
                    await operator.pause_campaign(code, "under load")
                else:
                    await operator.engage_kill_switch(everything, "under load")
                crowd.stopped.set()
            await reach(lambda: crowd.late == 0, rounds=30)
            assert crowd.late == 0
            crowd.stopped.clear()
            if what == "campaign":
                await operator.resume_campaign(code)
            else:
                await operator.release_kill_switch(everything)
            got = crowd.got
            await reach(lambda: crowd.got > got)
        await settle(four_workers.settings)
    (last, *_) = await app.stops(four_workers.settings, 1)
    assert (last.what, last.taken) == (f"campaign:{code}" if what == "campaign" else "*", 0)
    assert last.end_time_ms is not None
