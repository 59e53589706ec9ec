"""Many clients at once, through real gRPC and several workers. Every assertion is an exact count."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.service import CreateCampaign, Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Redemption, Refusal, RefusalReason, RequestIdReused

CAP = 500


async def test_20_000_calls_of_64_clients_with_repeats_take_exactly_the_cap(
    service: Service, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign(limit=CAP)
    calls = 20_000
    chance = random.Random(7)
    # 30 of 100 requests are sent twice, the second time from another client, at any distance.
    requests = list(range(round(calls / 1.3)))
    sent = requests + chance.sample(requests, calls - len(requests))
    chance.shuffle(sent)
    answers: dict[int, list[Redemption | Refusal]] = {request: [] for request in requests}

    async def run(client: Client, mine: Sequence[int]) -> None:
        async def one(number: int) -> None:
            answers[number].append(
                await client.redeem(
                    code, Customer(id=f"customer-{number}"), an_order(f"{code}-{number}"), request_id=f"{code}-{number}"
                )
            )

        for start in range(0, len(mine), 16):
            await asyncio.gather(*(one(number) for number in mine[start : start + 16]))

    clients = [service.client(timeout_s=60, channels=1) for _ in range(64)]
    try:
        await asyncio.gather(*(run(client, sent[index::64]) for index, client in enumerate(clients)))
    finally:
        await asyncio.gather(*(client.close() for client in clients))

    assert sum(len(given) for given in answers.values()) == calls
    assert sum(len(given) == 2 for given in answers.values()) == calls - len(requests)
    assert all(given[0] == given[-1] for given in answers.values()), "a repeated request got another answer"
    redeemed = {given[0].id for given in answers.values() if isinstance(given[0], Redemption)}
    assert len(redeemed) == CAP
    assert await rows_once_settled(service, campaign) == redeemed


async def test_50_at_once_with_one_request_id_take_one_use(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign(limit=CAP)
    answers = await asyncio.gather(
        *(client.redeem(code, Customer(id="c"), an_order(code), request_id=f"{code}-same") for _ in range(50))
    )
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert isinstance(answers[0], Redemption)
    assert await rows_once_settled(service, campaign) == {answers[0].id}
    assert (await client.get_campaign(campaign)).redeemed_count == 1


async def test_one_order_with_50_request_ids_takes_one_use(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign(limit=CAP)
    answers = await asyncio.gather(*(client.redeem(code, Customer(id="c"), an_order(code)) for _ in range(50)))
    redemptions = [answer for answer in answers if isinstance(answer, Redemption)]
    assert len(redemptions) == 50
    assert len({redemption.id for redemption in redemptions}) == 1
    assert await rows_once_settled(service, campaign) == {redemptions[0].id}


async def test_one_request_id_for_50_orders_takes_one_use(client: Client, create_campaign: CreateCampaign) -> None:
    campaign, code = await create_campaign(limit=CAP)
    outcomes = await asyncio.gather(
        *(
            client.redeem(code, Customer(id="c"), an_order(f"{code}-{number}"), request_id=f"{code}-same")
            for number in range(50)
        ),
        return_exceptions=True,
    )
    assert Counter(type(outcome) for outcome in outcomes) == {Redemption: 1, RequestIdReused: 49}
    assert (await client.get_campaign(campaign)).redeemed_count == 1


async def test_single_use_codes_are_used_once_each(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign(single_use=40)
    outcomes = await asyncio.gather(
        *(
            client.redeem(f"{code}-{number % 40}", Customer(id=f"c-{number}"), an_order(f"{code}-{number}"))
            for number in range(400)
        )
    )
    redeemed = Counter(outcome.applied_codes[0].code for outcome in outcomes if isinstance(outcome, Redemption))
    assert redeemed == {f"{code}-{number}": 1 for number in range(40)}
    reasons = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Refusal))
    assert reasons == {RefusalReason.REFUSAL_REASON_CODE_LIMIT_REACHED: 360}
    assert len(await rows_once_settled(service, campaign)) == 40


async def test_customer_and_total_limit_hold_at_the_same_time(
    service: Service, client: Client, create_campaign: CreateCampaign
) -> None:
    # 60 customers try 10 times each and may 2 times each; 100 of these 120 are left in all.
    campaign, code = await create_campaign(limit=100, per_customer=2)
    outcomes = await asyncio.gather(
        *(client.redeem(code, Customer(id=f"c-{number % 60}"), an_order(f"{code}-{number}")) for number in range(600))
    )
    redeemed = [outcome for outcome in outcomes if isinstance(outcome, Redemption)]
    assert len(redeemed) == 100
    assert max(Counter(outcome.customer_id for outcome in redeemed).values()) == 2
    assert await rows_once_settled(service, campaign) == {outcome.id for outcome in redeemed}


async def test_a_customer_limit_alone_is_exact(client: Client, create_campaign: CreateCampaign) -> None:
    _, code = await create_campaign(per_customer=3)
    outcomes = await asyncio.gather(
        *(client.redeem(code, Customer(id=f"c-{number % 20}"), an_order(f"{code}-{number}")) for number in range(400))
    )
    redeemed = Counter(outcome.customer_id for outcome in outcomes if isinstance(outcome, Redemption))
    assert redeemed == {f"c-{number}": 3 for number in range(20)}


@pytest.mark.parametrize("round_", range(3))
async def test_nothing_is_redeemed_after_a_pause_has_answered(
    service: Service, client: Client, create_campaign: CreateCampaign, round_: int
) -> None:
    campaign, code = await create_campaign()
    paused = asyncio.Event()
    late: list[Redemption] = []
    redeemed: set[str] = set()

    async def shop(worker: int) -> None:
        after_pause = 0
        number = 0
        while after_pause < 5:
            number += 1
            began_after = paused.is_set()
            outcome = await client.redeem(code, Customer(id=f"c-{worker}"), an_order(f"{code}-{worker}-{number}"))
            if isinstance(outcome, Redemption):
                redeemed.add(outcome.id)
                if began_after:
                    late.append(outcome)
            after_pause += began_after

    shoppers = [asyncio.create_task(shop(worker)) for worker in range(64)]
    while len(redeemed) < 200 + 50 * round_:  # noqa: ASYNC110  # the shoppers count, nobody signals
        await asyncio.sleep(0.005)
    await client.pause_campaign(campaign, "enough")
    paused.set()
    await asyncio.gather(*shoppers)

    assert late == []
    rows = await rows_once_settled(service, campaign)
    assert rows == redeemed
    # The stream says the same: no redemption has its place behind the pause.
    assert await service.taken_while_paused(campaign) == 0
    # And it goes on when an operator says so.
    await client.resume_campaign(campaign)
    assert isinstance(await client.redeem(code, Customer(id="later"), an_order(f"{code}-later")), Redemption)
