"""What one would build without a gate: a gRPC server that keeps everything in PostgreSQL, and nothing else.

`python -m benchmarks.postgres_only PORT` answers unary calls and batches until SIGTERM; POSTGRES_URL says where it
keeps them. It is as quick as PostgreSQL lets it be, with statements prepared once and a pool: a redemption is one
statement, so one transaction and one way to PostgreSQL and back, and a batch is one as well. It does less than
vouchsafe: the campaign has a cap, a use for each customer and a percentage, but no conditions, states or events, and
nobody checks requests.
"""

from __future__ import annotations

import os
import sys
from typing import Any

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

# All of them wait for the same row: more would not be quicker.
CONNECTIONS = 8
CAMPAIGN = "bench"
CAP = 10**9
BASIS_POINTS = 1_000

SCHEMA = """
create schema if not exists plain;
create table if not exists plain.campaigns (
    id text primary key,
    cap bigint not null,
    used bigint not null default 0
);
create table if not exists plain.redemptions (
    request_id text primary key,
    campaign_id text not null references plain.campaigns,
    customer_id text not null,
    order_id text not null,
    discount_minor bigint not null,
    at timestamptz not null default now(),
    unique (campaign_id, customer_id)
);
"""

REDEEM = """
with taken as (
    update plain.campaigns set used = used + 1 where id = $1 and used < cap returning id
)
insert into plain.redemptions (request_id, campaign_id, customer_id, order_id, discount_minor)
select $2, id, $3, $4, $5 from taken
returning request_id
"""

# As many as are left are taken, in the order of the batch; an item that stands already fails alone.
REDEEM_MANY = """
with campaign as (
    select id, cap - used as available from plain.campaigns where id = $1 for update
), taken as (
    insert into plain.redemptions (request_id, campaign_id, customer_id, order_id, discount_minor)
    select item.request_id, campaign.id, item.customer_id, item.order_id, item.discount_minor
    from campaign, unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) with ordinality
        as item (request_id, customer_id, order_id, discount_minor, place)
    where item.place <= campaign.available
    on conflict do nothing
    returning request_id
), counted as (
    update plain.campaigns set used = used + (select count(*) from taken) where id = $1
)
select request_id from taken
"""


def handlers(pool: asyncpg.Pool) -> Handlers:
    """Unary calls and batches."""

    async def unary(
        request: ValidateAndRedeemRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> ValidateAndRedeemResponse:
        discount_minor = _discount_minor(request)
        row = CAMPAIGN, request.request_id, request.customer.id, request.order.id, discount_minor
        try:
            taken = await pool.fetchval(REDEEM, *row) is not None
        except asyncpg.UniqueViolationError:
            taken = False
        return _answer(request, discount_minor, taken=taken)

    async def batch(
        message: BatchValidateAndRedeemRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> BatchValidateAndRedeemResponse:
        requests = message.requests
        discounts = [_discount_minor(request) for request in requests]
        rows = await pool.fetch(
            REDEEM_MANY,
            CAMPAIGN,
            [request.request_id for request in requests],
            [request.customer.id for request in requests],
            [request.order.id for request in requests],
            discounts,
        )
        taken = {row[0] for row in rows}
        return BatchValidateAndRedeemResponse(
            results=[
                RedemptionResult(
                    request_id=request.request_id,
                    response=_answer(request, discount_minor, taken=request.request_id in taken),
                )
                for request, discount_minor in zip(requests, discounts, strict=True)
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


def _discount_minor(request: ValidateAndRedeemRequest) -> int:
    return sum(
        line.unit_price_minor * line.quantity * BASIS_POINTS // 10_000
        for line in request.order.lines
        if "shoes" in line.categories
    )


def _answer(request: ValidateAndRedeemRequest, discount_minor: int, *, taken: bool) -> ValidateAndRedeemResponse:
    if not taken:
        return ValidateAndRedeemResponse(refusal=Refusal(message="all are taken"))
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


async def main(port: int, url: str) -> None:
    """Makes the schema and the campaign, and serves."""
    async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        await pool.execute(SCHEMA)
        await pool.execute(
            "insert into plain.campaigns (id, cap) values ($1, $2) on conflict do nothing", CAMPAIGN, CAP
        )
        await serve(port, handlers(pool))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), os.environ["POSTGRES_URL"]))
