"""Codes while processes are killed and stores are away: exact counts, and nothing asked of PostgreSQL in vain."""

from __future__ import annotations

import asyncio
import itertools
import uuid

import asyncpg
import pytest

from tests.grpc.test_codes import generated, pieces
from tests.grpc.test_combined import create, reason
from tests.service import Service, a_campaign, an_order, settle, until
from vouchsafe import app
from vouchsafe.client import Client, ClientError, Customer, OperationState, Redemption, Refusal, Unavailable
from vouchsafe.settings import Settings

SHOPPERS = 24


async def fetch(settings: Settings, query: str, *args: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        return await connection.fetch(query, *args)
    finally:
        await connection.close()


def codes_of_the_gate(service: Service) -> list[bytes]:
    """Every code of the directory, wherever it lies."""
    found: list[bytes] = []
    for valkey in service.valkeys():
        for key in valkey.scan_iter("{p*}:codes:*", count=5_000):
            found += valkey.hkeys(key)
    return found


async def check_exact(service: Service, campaign: str, count: int) -> None:
    """Both stores have exactly so many different generated codes, the same, and nothing waits between them."""
    rows = await fetch(service.settings, "select code from codes where campaign_id = $1 and use_limit = 1", campaign)
    assert len(rows) == count
    in_gate = await asyncio.to_thread(codes_of_the_gate, service)
    # The campaign's own code, too.
    assert sorted([*(row["code"].encode() for row in rows), campaign.upper().encode()]) == sorted(in_gate)
    assert await fetch(service.settings, "select from codes_unpublished") == []


async def check_redeemable(service: Service, client: Client, campaign: str) -> None:
    """Some of the generated codes, from all over, are used once each, and no second time."""
    query = "select code from codes where campaign_id = $1 and use_limit = 1 order by md5(code) limit 100"
    codes = [row["code"] for row in await fetch(service.settings, query, campaign)]
    assert len(codes) == 100
    for wanted in (Redemption, Refusal):
        orders = [an_order(f"{wanted.__name__}-{code}") for code in codes]
        outcomes = await asyncio.gather(
            *(client.redeem(order.id.split("-", 1)[1], Customer(id=order.id), order) for order in orders)
        )
        assert [type(outcome) for outcome in outcomes] == [wanted] * 100


async def killed_on_the_way(service: Service, client: Client, campaign: str, count: int, kills: list[str]) -> None:
    """Generates codes; each victim is killed in its turn, at equal distances. Whenever something was killed the same is
    asked for again, as by a user whose command was cut off."""
    id_ = f"operation-of-{campaign}"
    begun = await client.generate_codes(campaign, count, operation_id=id_)
    left = [(count * number // (len(kills) + 1), victim) for number, victim in enumerate(kills, 1)]
    async for operation in client.follow_operation(id_):
        assert operation.done_count <= count
        if left and operation.done_count >= left[0][0]:
            await asyncio.to_thread(service.kill, left.pop(0)[1])
            again = await client.generate_codes(campaign, count, operation_id=id_)
            assert (again.id, again.create_time) == (begun.id, begun.create_time)
    assert not left, "it was faster than it was killed"
    assert (operation.state, operation.done_count) == (OperationState.OPERATION_STATE_SUCCEEDED, count)
    assert [one.id async for one in client.list_operations(campaign_id=campaign)] == [id_]


@pytest.fixture
def count(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("codes"))


@pytest.mark.timeout(900)  # for a million of them
@pytest.mark.parametrize(
    "kills",
    [
        # Who draws and writes them.
        ["persister"] * 3,
        # Who is asked, who draws, and where they have to be found.
        ["worker", "persister", "valkey"],
        ["valkey", "postgres"],
    ],
    ids=" ".join,
)
async def test_generating_goes_on_exactly_where_it_was_cut_off(
    own_service: Service, count: int, kills: list[str]
) -> None:
    async with own_service.client(timeout_s=60) as client:
        campaign, _ = await a_campaign(client)
        await killed_on_the_way(own_service, client, campaign, count, kills)
        await check_exact(own_service, campaign, count)
        await check_redeemable(own_service, client, campaign)


async def test_two_persisters_generate_no_more_than_one(own_service: Service) -> None:
    own_service._spawn("persist")
    async with own_service.client(timeout_s=60) as client:
        campaign, _ = await a_campaign(client)
        count = 30_000
        begun = [await client.generate_codes(campaign, count) for _ in range(3)]
        for operation in begun:
            *_, last = [latest async for latest in client.follow_operation(operation.id)]
            assert (last.state, last.done_count) == (OperationState.OPERATION_STATE_SUCCEEDED, count)
        await check_exact(own_service, campaign, 3 * count)


async def test_codes_that_exist_nowhere_ask_nothing_of_postgresql(own_service: Service) -> None:
    async with own_service.client(timeout_s=30, channels=8) as client:
        campaign, _ = await a_campaign(client)
        (genuine,) = await generated(client, campaign, 1)
        await settle(own_service.settings)
        own_service.stop_postgres()
        # Fewer than what one caller may guess before it is slowed down, and each customer once.
        forged = [uuid.uuid4().hex[:12].upper() for _ in range(500)]
        outcomes = await asyncio.gather(*(client.redeem(code, Customer(id=code), an_order(code)) for code in forged))
        assert {reason(outcome) for outcome in outcomes if isinstance(outcome, Refusal)} == {"CODE_UNKNOWN"}
        assert not any(isinstance(outcome, Redemption) for outcome in outcomes)
        assert isinstance(await client.redeem(genuine, Customer(id="c-1"), an_order(genuine)), Redemption)
        assert (await client.get_code(genuine)).used_count == 1
        own_service.start_postgres()


class Shoppers:
    """Redeem a code, alone and together with another one, until it is over."""

    def __init__(self, client: Client, code: str, other: str) -> None:
        self.redeemed: dict[str, Redemption] = {}
        self.late: list[str] = []
        # Set for as long as nothing may be redeemed.
        self.disabled = asyncio.Event()
        self._client, self._code, self._other = client, code, other
        self._over = asyncio.Event()
        self._tasks = [asyncio.create_task(self._shop(shopper)) for shopper in range(SHOPPERS)]

    async def sold(self, more: int) -> None:
        wanted = len(self.redeemed) + more

        async def are() -> bool:
            return len(self.redeemed) >= wanted

        await until(are)

    async def end(self) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def _shop(self, shopper: int) -> None:
        for number in itertools.count():
            if self._over.is_set():
                return
            order = an_order(f"{self._code}-{shopper}-{number}")
            codes = [self._code] if number % 2 else [self._other, self._code]
            began_behind = self.disabled.is_set()
            outcome = await self._client.redeem_codes(codes, Customer(id=f"c-{shopper}"), order)
            if not outcome.HasField("redemption"):
                assert reason(outcome.refusal) == "CODE_DISABLED"
                continue
            self.redeemed[order.id] = outcome.redemption
            if began_behind and self.disabled.is_set():
                self.late.append(order.id)


async def used_while_enabled(settings: Settings, campaign: str) -> list[str]:
    """The orders that used the campaign's code, by the stream: none between a disabling and the enabling behind it."""
    query = """
        select kind, body ->> 'order_id' as order_id from events
        where campaign_id = $1 and kind in ('redeemed', 'code_disabled', 'code_enabled') order by epoch, ms, seq
    """
    is_disabled, used = False, []
    for kind, order_id in await fetch(settings, query, campaign):
        if kind == "redeemed":
            assert not is_disabled, order_id
            used.append(order_id)
        else:
            assert is_disabled == (kind == "code_enabled")
            is_disabled = not is_disabled
    return used


@pytest.mark.parametrize("with_postgres", [True, False])
async def test_no_use_of_a_code_stands_behind_its_disabling(own_service: Service, with_postgres: bool) -> None:
    async with own_service.client(timeout_s=30, channels=8) as client:
        code, other = await create(client), await create(client)
        shoppers = Shoppers(client, code, other)
        if not with_postgres:
            own_service.stop_postgres()
        for _ in range(3):
            await shoppers.sold(100)
            await client.disable_code(code, "leaked")
            shoppers.disabled.set()
            await asyncio.gather(*(client.redeem(code, Customer(id="x"), an_order(f"{code}-x")) for _ in range(20)))
            shoppers.disabled.clear()
            await client.enable_code(code)
        await shoppers.sold(50)
        await shoppers.end()
        if not with_postgres:
            own_service.start_postgres()
        assert shoppers.late == []
        await settle(own_service.settings)
        assert sorted(await used_while_enabled(own_service.settings, code)) == sorted(shoppers.redeemed)
        assert (await client.get_code(code)).used_count == len(shoppers.redeemed)


async def test_an_import_that_is_cut_off_is_whole_or_nothing(own_service: Service) -> None:
    async with own_service.client(timeout_s=60) as client:
        campaign, _ = await a_campaign(client)
        text = "\n".join(["code", *(f"CUT-OFF-{number:06}" for number in range(20_000))])

        async def cut_off() -> object:
            async for piece in pieces(text, 20_000):
                yield piece
            own_service.kill("server")
            yield b"\n"

        with pytest.raises(ClientError):
            await client.import_codes(campaign, cut_off(), all_or_nothing=True)  # type: ignore[arg-type]  # bytes
        assert await fetch(own_service.settings, "select from codes where use_limit = 1") == []
        while True:  # the server comes back
            try:
                report = await client.import_codes(campaign, pieces(text, 20_000), all_or_nothing=True)
                break
            except Unavailable:
                await asyncio.sleep(0.2)
        assert (report.imported_count, report.bad_line_count) == (20_000, 0)
        await until(lambda: _is_settled(own_service))
        await check_exact(own_service, campaign, 20_000)


async def _is_settled(service: Service) -> bool:
    return not (await app.status(service.settings)).closed and not await fetch(
        service.settings, "select from codes_unpublished"
    )
