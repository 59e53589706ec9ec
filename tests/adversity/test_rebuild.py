"""Valkey loses everything: it is rebuilt from the ledger, key by key what it was."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import redis

from tests.grpc.test_combined import create
from tests.service import Service, an_order, settle, until
from vouchsafe.client import Client, Customer, Redemption, Reservation, ReturnedLine, Rollback

# Of what is through nothing is needed any more, and a token has its epoch.
NOT_COMPARED = {"open3", "run", "trimmed", "outbox", "transaction", "mark", "holding"}
PLENTY = {"total": 100_000, "per_customer": 100_000}


def contents(service: Service) -> dict[str, Any]:
    """All that Valkey holds and has to hold again, by key."""
    found: dict[str, Any] = {}
    with redis.Redis.from_url(service.settings.valkey_url) as valkey:
        for key in valkey.scan_iter("{p*"):
            name = key.decode()
            if name.split(":")[1] in NOT_COMPARED:
                continue
            match valkey.type(key):
                case b"hash":
                    found |= {f"{name} {field.decode()}": plain(value) for field, value in valkey.hgetall(key).items()}
                case b"string":
                    found[name] = valkey.get(key)
                case b"zset":
                    found[name] = valkey.zrange(key, 0, -1, withscores=True)
                case other:
                    raise AssertionError(f"{name} is a {other}")
    return found


def plain(value: bytes) -> Any:
    """A hold without the caps of its takes: they were looked at when it was taken, and no book has them."""
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
    async with Client(own_service.target, timeout_s=30, channels=8) as client:
        day = {"period": "PERIOD_DAY", "uses": 9_999}
        window = {"window": "86400s", "uses": 100}
        codes = [
            await create(client, limits={**PLENTY, "budget_minor": 10**9}, currency_code="EUR"),
            await create(client, limits={"distinct_customers": 500, "periods": [day], "windows": [window]}),
            await create(client, limits={"identities": {"kinds": ["IDENTITY_KIND_CUSTOMER_ID"], "uses": 9_999}}),
        ]
        await asyncio.gather(*(trade(client, codes, shopper) for shopper in range(12)))
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
        after = contents(own_service)
        assert before.keys() == after.keys()
        assert {key: value for key, value in after.items() if value != before.get(key)} == {}
        # The same request gets the same answer, and the order no second use.
        assert await client.redeem(codes[0], Customer(id="c-1"), order, request_id=request_id) == redeemed
        assert await client.redeem(codes[0], Customer(id="c-1"), order) == redeemed
