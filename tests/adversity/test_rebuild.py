"""Valkey loses everything: it is rebuilt from the ledger, key by key what it was."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from tests.grpc.test_codes import generated
from tests.grpc.test_combined import create
from tests.service import Service, a_campaign, an_order, rows_once_settled, settle, until
from vouchsafe.client import (
    Client,
    Customer,
    Redemption,
    Refusal,
    RefusalReason,
    Reservation,
    ReturnedLine,
    Rollback,
)
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemRequest
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

# When a call began and when it had ended, by the monotonic clock.
Span = tuple[float, float]

# Of what is through nothing is needed any more, and a token and fences have their epochs.
# Numbers of campaigns are what they happen to be: what they stand for is compared.
NOT_COMPARED = {"numbers", "open4", "run", "fences", "trimmed", "outbox", "transaction", "mark", "holding"}
REFUSED_AT_ONCE_S = 0.1
PLENTY = {"total": 100_000, "per_customer": 100_000}


def contents(service: Service) -> dict[str, Any]:
    """All that Valkey holds and has to hold again, by key."""
    found: dict[str, Any] = {}
    for valkey in service.valkeys():
        for key in valkey.scan_iter("{p*"):
            name = key.decode()
            if name.split(":")[1] in NOT_COMPARED:
                continue
            match valkey.type(key):
                case b"hash":
                    fields = valkey.hgetall(key)
                    if name.split(":")[1] == "codes":
                        numbers = valkey.hgetall(f"{name[:5]}:numbers")
                        fields = {code: named(value, numbers) for code, value in fields.items()}
                    found |= {f"{name} {field.decode()}": plain(field, value) for field, value in fields.items()}
                case b"string":
                    found[name] = valkey.get(key)
                case b"zset":
                    found[name] = valkey.zrange(key, 0, -1, withscores=True)
                case other:
                    raise AssertionError(f"{name} is a {other}")
    return found


def named(entry: bytes, numbers: dict[bytes, bytes]) -> bytes:
    """A code's entry with its campaign's name in the place of the number."""
    return re.sub(rb"^\d+", lambda number: numbers[b"#" + number[0]], entry)


def plain(field: bytes, value: bytes) -> Any:
    """Moments in order; a hold without the caps of its takes: they were looked at when it was taken, and no book has
    them."""
    if field.startswith(b"~"):
        return sorted(value.split())
    if value[:1] != b"H":
        return value
    fingerprint, takes, *rest = msgspec.msgpack.decode(value[1:])
    words = takes.split(" ")
    return [fingerprint, list(zip(words[::4], words[1::4], strict=True)), *rest]


async def trade(client: Client, codes: list[str], shopper: int) -> None:
    """All that leaves traces: redeemed alone and together, held, confirmed, released, replaced, taken back."""
    for number in range(12):
        order = an_order(f"{codes[0]}-{shopper}-{number}", amount_minor=random.randint(1_000, 9_000))
        customer = Customer(id=f"c-{random.randint(0, 9)}")
        match number % 6:
            case 0:
                assert isinstance(await client.redeem(codes[0], customer, order), Redemption)
            case 1:
                held = await client.reserve(random.sample(codes, 2), customer, order, ttl_s=3_600)
                if random.random() < 0.3:
                    order.lines[0].unit_price_minor += 1
                    held = await client.reserve(random.sample(codes, 2), customer, order, ttl_s=3_600)
                assert isinstance(held.reservation, Reservation)
            case 2:
                held = await client.reserve(codes[:2], customer, order, ttl_s=3_600)
                assert isinstance(await client.confirm(held.reservation.id), Redemption)
            case 3:
                held = await client.reserve([codes[2]], customer, order, ttl_s=3_600)
                assert isinstance(await client.release(held.reservation.id), Reservation)
            case 4:
                redeemed = (await client.redeem_codes(codes, customer, order)).redemption
                back = [ReturnedLine(line_index=0, discount_minor=3)]
                assert isinstance(await client.roll_back(redeemed.id, lines=back), Rollback)
            case _:
                redeemed = (await client.redeem_codes(random.sample(codes, 2), customer, order)).redemption
                assert isinstance(await client.roll_back(redeemed.id), Rollback)
                again = await client.redeem_codes(codes[:1], customer, order)
                assert again.HasField("redemption")


async def test_what_is_rebuilt_is_key_by_key_what_was_lost(own_service: Service) -> None:
    async with own_service.client(timeout_s=30, channels=8) as client:
        day = {"period": "PERIOD_DAY", "uses": 9_999}
        window = {"window": "86400s", "uses": 100}
        codes = [
            await create(client, limits={**PLENTY, "budget_minor": 10**9}, currency_code="EUR"),
            await create(client, limits={"distinct_customers": 500, "periods": [day], "windows": [window]}),
            await create(client, limits={"identities": {"kinds": ["IDENTITY_KIND_CUSTOMER_ID"], "uses": 9_999}}),
        ]
        await asyncio.gather(*(trade(client, codes, shopper) for shopper in range(12)))
        made = await generated(client, codes[0], 300)
        await client.assign_code(made[0], "c-1", valid_for_s=3_600)
        await client.assign_code(made[1], "c" * 100)
        await client.gift_code(codes[1], "c-2")
        for code in (*made[1:4], codes[1]):
            await client.disable_code(code, "lost")
        await client.enable_code(made[3])
        await client.pause_campaign(codes[2], "for a while")
        request_id = f"again-{codes[0]}"
        order = an_order(request_id)
        redeemed = await client.redeem(codes[0], Customer(id="c-1"), order, request_id=request_id)
        assert isinstance(redeemed, Redemption)
        await settle(own_service.settings)
        before = contents(own_service)
        await own_service.flush_valkey()

        async def is_open() -> bool:
            return (await client.get_campaign(codes[0])).redeemed_count > 0

        await until(is_open)
        await settle(own_service.settings)
        after = contents(own_service)
        assert before.keys() == after.keys()
        assert {key: value for key, value in after.items() if value != before.get(key)} == {}
        # The same request gets the same answer, and the order no second use.
        assert await client.redeem(codes[0], Customer(id="c-1"), order, request_id=request_id) == redeemed
        assert await client.redeem(codes[0], Customer(id="c-1"), order) == redeemed
        late = await client.redeem(made[2], Customer(id="c-1"), an_order(made[2]))
        assert isinstance(late, Refusal)
        assert late.reason == RefusalReason.REFUSAL_REASON_CODE_DISABLED


async def sell(service: Service, code: str, told: set[str], over: asyncio.Event) -> tuple[list[Span], list[Span]]:
    """Shoppers until it is over, each asking once; answers from when to when each call was that was redeemed, and each
    that was UNAVAILABLE."""
    redeemed: list[Span] = []
    unavailable: list[Span] = []
    async with contextlib.AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(service.target, (("channel", number),)) for number in range(8)]
        stubs = [RedemptionServiceStub(await stack.enter_async_context(channel)) for channel in channels]

        async def shop(shopper: int) -> None:
            for number in itertools.count():
                if over.is_set():
                    return
                request = ValidateAndRedeemRequest(
                    request_id=str(uuid.uuid4()),
                    codes=[code],
                    customer=Customer(id=f"c-{shopper}"),
                    order=an_order(f"{code}-{shopper}-{number}"),
                )
                began = time.monotonic()
                try:
                    answer = await stubs[shopper % 8].ValidateAndRedeem(request, timeout=0.5, metadata=service.metadata)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        unavailable.append((began, time.monotonic()))
                else:
                    if answer.HasField("redemption"):
                        told.add(answer.redemption.id)
                        redeemed.append((began, time.monotonic()))

        await asyncio.gather(*(shop(shopper) for shopper in range(16)))
    return redeemed, unavailable


async def test_emptied_under_load_it_refuses_at_once_and_is_open_again_in_seconds(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client)
        told: set[str] = set()
        over = asyncio.Event()
        selling = asyncio.create_task(sell(own_service, code, told, over))
        await until(lambda: _at_least(told, 300))
        await own_service.flush_valkey()
        flushed = time.monotonic()
        count = len(told)
        await until(lambda: _at_least(told, count + 300))
        over.set()
        redeemed, unavailable = await selling
        # Of the calls that begin now the first is refused already, and it is told so at once.
        refused = min(ended for began, ended in unavailable if began > flushed)
        assert refused - flushed < REFUSED_AT_ONCE_S
        open_again = min(ended for began, ended in redeemed if began > flushed)
        assert open_again > refused
        rows = await rows_once_settled(own_service, campaign)
        # What had not reached the ledger is lost with the store, as docs/durability.md says; all else is there.
        assert len(told - rows) < 300
        assert (await client.get_campaign(campaign)).redeemed_count == len(rows)


async def test_an_older_copy_of_valkey_gives_nothing_out_again(own_service: Service, tmp_path: Path) -> None:
    cap = 100
    async with own_service.client(timeout_s=30, channels=8) as client:
        campaign, code = await a_campaign(client, limit=cap)

        async def ask(numbers: range) -> list[Redemption | Refusal]:
            orders = [an_order(f"{code}-{number}") for number in numbers]
            return await asyncio.gather(*(client.redeem(code, Customer(id=order.id), order) for order in orders))

        await ask(range(40))
        own_service.stop_valkey()
        shutil.copytree(own_service.valkey_data, tmp_path / "older")
        own_service.start_valkey()
        await ask(range(40, 80))
        await settle(own_service.settings)
        own_service.stop_valkey()
        shutil.rmtree(own_service.valkey_data)
        shutil.copytree(tmp_path / "older", own_service.valkey_data)
        own_service.start_valkey()
        answers = await ask(range(200))
        assert sum(isinstance(answer, Redemption) for answer in answers) == cap
        assert len(await rows_once_settled(own_service, campaign)) == cap


@pytest.mark.parametrize("victims", [("persister",), ("valkey",), ("postgres",), ("server", "persister", "valkey")])
async def test_killed_while_it_is_rebuilt_it_is_rebuilt_all_the_same(
    own_service: Service, victims: tuple[str, ...]
) -> None:
    cap = 3_000
    async with own_service.client(timeout_s=30, channels=8) as client:
        campaign, code = await a_campaign(client, limit=cap)

        async def ask(count: int, name: str) -> int:
            orders = [an_order(f"{code}-{name}-{number}") for number in range(count)]
            answers = await asyncio.gather(*(client.redeem(code, Customer(id=order.id), order) for order in orders))
            return sum(isinstance(answer, Redemption) for answer in answers)

        assert await ask(2_000, "before") == 2_000
        await settle(own_service.settings)
        for _ in range(4):
            await own_service.flush_valkey()
            await asyncio.sleep(random.uniform(0.1, 0.5))
            await asyncio.to_thread(own_service.kill, *victims)
        assert await ask(2_000, "after") == 1_000
        assert len(await rows_once_settled(own_service, campaign)) == cap


async def _at_least(told: set[str], count: int) -> bool:
    return len(told) >= count
