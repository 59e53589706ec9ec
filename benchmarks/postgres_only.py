"""What one would build without a gate: a gRPC server that keeps everything in PostgreSQL, and nothing else.

`python -m benchmarks.postgres_only PORT plain` is what a team writes first: in one transaction an update of the
campaign, then an insert; a batch is one transaction with the same pair for each item in turn. `tuned` in its place is
what somebody who knows PostgreSQL makes of that: one statement for a call, and one for a batch. It answers unary calls
and batches until SIGTERM; POSTGRES_URL says where it keeps them.

Schema, answers and what is kept are the same, statements are prepared once (asyncpg keeps them) and connections kept,
in a pool as it comes. Both do less than vouchsafe: the campaign has a cap, a use for each customer and a percentage,
but no conditions, states or events, and nobody checks requests.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg
import grpc
import uvloop

from benchmarks.message import METHODS
from benchmarks.serving import Handlers, serve
from vouchsafe.v1.redemption_pb2 import AppliedCode, Redemption
from vouchsafe.v1.redemption_service_pb2 import (
    BatchValidateAndRedeemRequest,
    BatchValidateAndRedeemResponse,
    RedemptionResult,
    ValidateAndRedeemRequest,
    ValidateAndRedeemResponse,
)
from vouchsafe.v1.refusal_pb2 import Refusal

# About as many as a pool of asyncpg has by itself. All wait for the same row: more are slower, fewer may be quicker.
CONNECTIONS = 8
CAMPAIGN = "bench"
CAP = 10**9
BASIS_POINTS = 1_000

SCHEMA = """
create schema if not exists yardstick;
create table if not exists yardstick.campaigns (
    id text primary key,
    cap bigint not null,
    used bigint not null default 0
);
create table if not exists yardstick.redemptions (
    request_id text primary key,
    campaign_id text not null references yardstick.campaigns,
    customer_id text not null,
    order_id text not null,
    discount_minor bigint not null,
    at timestamptz not null default now(),
    unique (campaign_id, customer_id)
);
"""

# A redemption to keep: its request, customer and order, and its discount in minor units.
Row = tuple[str, str, str, int]


class Rival(Protocol):
    """A way to keep redemptions of CAMPAIGN: never more than its cap, one for each request and each customer."""

    async def redeem(self, row: Row) -> bool:
        """Whether it was taken."""

    async def redeem_many(self, rows: Sequence[Row]) -> list[bool]:
        """Whether each of them was taken, in one transaction. One that was not leaves the others alone."""


# The campaign comes first: who holds its row is alone with it, so transactions never wait for each other in a ring.
TAKE = "update yardstick.campaigns set used = used + 1 where id = $1 and used < cap returning true"
GIVE_BACK = "update yardstick.campaigns set used = used - 1 where id = $1"
INSERT = """
insert into yardstick.redemptions (campaign_id, request_id, customer_id, order_id, discount_minor)
values ($1, $2, $3, $4, $5)
on conflict do nothing
returning true
"""


class Plain:
    """An update and an insert for each, and a transaction around them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def redeem(self, row: Row) -> bool:
        """As a batch of one."""
        [taken] = await self.redeem_many([row])
        return taken

    async def redeem_many(self, rows: Sequence[Row]) -> list[bool]:
        """One after the other."""
        async with self._pool.acquire() as connection, connection.transaction():
            return [await self._redeem(connection, row) for row in rows]

    @staticmethod
    async def _redeem(connection: asyncpg.pool.PoolConnectionProxy, row: Row) -> bool:
        if not await connection.fetchval(TAKE, CAMPAIGN):
            return False
        if await connection.fetchval(INSERT, CAMPAIGN, *row):
            return True
        await connection.execute(GIVE_BACK, CAMPAIGN)
        return False


REDEEM = """
with taken as (
    update yardstick.campaigns set used = used + 1 where id = $1 and used < cap returning id
)
insert into yardstick.redemptions (campaign_id, request_id, customer_id, order_id, discount_minor)
select id, $2, $3, $4, $5 from taken
returning request_id
"""

# As many as are left are taken, in the order of the batch; an item that stands already fails alone.
REDEEM_MANY = """
with campaign as (
    select id, cap - used as available from yardstick.campaigns where id = $1 for update
), taken as (
    insert into yardstick.redemptions (campaign_id, request_id, customer_id, order_id, discount_minor)
    select campaign.id, item.request_id, item.customer_id, item.order_id, item.discount_minor
    from campaign, unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) with ordinality
        as item (request_id, customer_id, order_id, discount_minor, place)
    where item.place <= campaign.available
    on conflict do nothing
    returning request_id
), counted as (
    update yardstick.campaigns set used = used + (select count(*) from taken) where id = $1
)
select request_id from taken
"""


class Tuned:
    """One statement for a call and for a batch, so a transaction that takes one way to PostgreSQL and back."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def redeem(self, row: Row) -> bool:
        """As one statement."""
        try:
            return await self._pool.fetchval(REDEEM, CAMPAIGN, *row) is not None
        except asyncpg.UniqueViolationError:
            return False

    async def redeem_many(self, rows: Sequence[Row]) -> list[bool]:
        """As one statement as well."""
        kept = await self._pool.fetch(REDEEM_MANY, CAMPAIGN, *map(list, zip(*rows, strict=True)))
        taken = {row[0] for row in kept}
        return [row[0] in taken for row in rows]


RIVALS: Mapping[str, Callable[[asyncpg.Pool], Rival]] = {"plain": Plain, "tuned": Tuned}


def handlers(rival: Rival) -> Handlers:
    """Unary calls and batches."""

    async def unary(
        request: ValidateAndRedeemRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> ValidateAndRedeemResponse:
        row = _row(request)
        return _answer(request, row, taken=await rival.redeem(row))

    async def batch(
        message: BatchValidateAndRedeemRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> BatchValidateAndRedeemResponse:
        rows = [_row(request) for request in message.requests]
        return BatchValidateAndRedeemResponse(
            results=[
                RedemptionResult(request_id=request.request_id, response=_answer(request, row, taken=taken))
                for request, row, taken in zip(message.requests, rows, await rival.redeem_many(rows), strict=True)
            ]
        )

    return {
        METHODS["unary"]: grpc.unary_unary_rpc_method_handler(
            unary, ValidateAndRedeemRequest.FromString, ValidateAndRedeemResponse.SerializeToString
        ),
        METHODS["batch"]: grpc.unary_unary_rpc_method_handler(
            batch, BatchValidateAndRedeemRequest.FromString, BatchValidateAndRedeemResponse.SerializeToString
        ),
    }


def _row(request: ValidateAndRedeemRequest) -> Row:
    discount_minor = sum(
        line.unit_price_minor * line.quantity * BASIS_POINTS // 10_000
        for line in request.order.lines
        if "shoes" in line.categories
    )
    return request.request_id, request.customer.id, request.order.id, discount_minor


def _answer(request: ValidateAndRedeemRequest, row: Row, *, taken: bool) -> ValidateAndRedeemResponse:
    if not taken:
        return ValidateAndRedeemResponse(refusal=Refusal(message="all are taken"))
    *_, discount_minor = row
    amount_minor = sum(line.unit_price_minor * line.quantity for line in request.order.lines)
    applied = AppliedCode(
        code=request.codes[0],
        campaign_id=CAMPAIGN,
        campaign_version=1,
        discount_minor=discount_minor,
        desired_minor=discount_minor,
    )
    return ValidateAndRedeemResponse(
        redemption=Redemption(
            id=request.request_id,
            request_id=request.request_id,
            order_id=request.order.id,
            customer_id=request.customer.id,
            applied_codes=[applied],
            currency_code=request.order.currency_code,
            order_amount_minor=amount_minor,
            discount_minor=discount_minor,
        )
    )


async def prepare(pool: asyncpg.Pool, cap: int = CAP) -> None:
    """Makes schema and campaign, unless they are there."""
    await pool.execute(SCHEMA)
    await pool.execute(
        "insert into yardstick.campaigns (id, cap) values ($1, $2) on conflict do nothing", CAMPAIGN, cap
    )


async def main(port: int, name: str, url: str) -> None:
    """Prepares PostgreSQL, and serves."""
    async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        await prepare(pool)
        await serve(port, handlers(RIVALS[name](pool)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres_only", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("rival", choices=RIVALS)
    options = parser.parse_args()
    uvloop.run(main(options.port, options.rival, os.environ["POSTGRES_URL"]))
