"""Many clients at once over streams and with batches, and several workers. Every assertion is an exact count."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import grpc
import pytest

from tests.service import CreateCampaign, Service, rows_once_settled
from tests.ways import Answer, Way, a_request, by_batch, by_stream
from vouchsafe.client import Client
from vouchsafe.v1 import redemption_service_pb2 as pb

CAP = 500
CLIENTS = 64
REQUESTS = 6_400
MANY = pytest.mark.parametrize("way", [by_stream, by_batch])


@MANY
async def test_64_clients_with_repeats_take_exactly_the_cap(
    service: Service, create_campaign: CreateCampaign, way: Way
) -> None:
    campaign, code = await create_campaign(limit=CAP)
    chance = random.Random(7)
    # 30 of 100 are sent twice, the second time mostly by another client, and 50 of one client at once.
    numbers = list(range(round(REQUESTS / 1.3)))
    sent = numbers + chance.sample(numbers, REQUESTS - len(numbers))
    chance.shuffle(sent)
    answers: dict[int, list[Answer]] = {number: [] for number in numbers}

    async def run(channel: grpc.aio.Channel, mine: Sequence[int]) -> None:
        for start in range(0, len(mine), 50):
            part = mine[start : start + 50]
            told = await way(channel, service.metadata, [a_request(code, id_=f"{code}-{number}") for number in part])
            for number, answer in zip(part, told, strict=True):
                answers[number].append(answer)

    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(service.target, options=options) for _ in range(CLIENTS)]
    try:
        await asyncio.gather(*(run(channel, sent[index::CLIENTS]) for index, channel in enumerate(channels)))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))

    assert sum(map(len, answers.values())) == REQUESTS
    assert all(given[0] == given[-1] for given in answers.values()), "a repeated request got another answer"
    redeemed = {redemption_id(given[0]) for given in answers.values()} - {""}
    assert len(redeemed) == CAP
    assert await rows_once_settled(service, campaign) == redeemed


@MANY
async def test_one_request_id_50_times_takes_one_use(
    service: Service, create_campaign: CreateCampaign, way: Way
) -> None:
    campaign, code = await create_campaign(limit=CAP)
    async with grpc.aio.insecure_channel(service.target) as channel:
        answers = await way(channel, service.metadata, [a_request(code, id_=code)] * 50)
    (id_,) = {redemption_id(answer) for answer in answers}
    assert await rows_once_settled(service, campaign) == {id_}


@MANY
async def test_nothing_is_redeemed_after_a_pause_has_answered(
    service: Service, client: Client, create_campaign: CreateCampaign, way: Way
) -> None:
    campaign, code = await create_campaign()
    paused = asyncio.Event()
    redeemed: set[str] = set()
    late: set[str] = set()

    async def shop(channel: grpc.aio.Channel, shopper: int) -> None:
        number, began_after = 0, False
        while not began_after:
            began_after = paused.is_set()
            ids = [f"{code}-{shopper}-{number}-{place}" for place in range(20)]
            number += 1
            answers = await way(channel, service.metadata, [a_request(code, id_=id_) for id_ in ids])
            found = {redemption_id(answer) for answer in answers} - {""}
            redeemed.update(found)
            if began_after:
                late.update(found)

    async with asyncio.TaskGroup() as group:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [grpc.aio.insecure_channel(service.target, options=options) for _ in range(8)]
        for shopper in range(32):
            group.create_task(shop(channels[shopper % 8], shopper))
        while len(redeemed) < 300:  # noqa: ASYNC110  # the shoppers count, nobody signals
            await asyncio.sleep(0.005)
        await client.pause_campaign(campaign, "enough")
        paused.set()
    await asyncio.gather(*(channel.close() for channel in channels))
    assert late == set()
    assert await rows_once_settled(service, campaign) == redeemed
    assert await service.taken_while_paused(campaign) == 0


def redemption_id(answer: Answer) -> str:
    """Empty for a refusal."""
    assert isinstance(answer, pb.ValidateAndRedeemResponse), answer
    return answer.redemption.id
