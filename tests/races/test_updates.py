"""Changes of definitions that run: none is lost, and each holds from its answer on."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.grpc.test_rules import create, definition
from tests.service import an_order
from vouchsafe.client import (
    CampaignDefinition,
    Changed,
    Client,
    Customer,
    InvalidArgument,
    Limits,
    Redemption,
)
from vouchsafe.v1.definition_pb2 import Stacking

CHANGES = {
    "display_name": CampaignDefinition(display_name="New"),
    "limits.total": CampaignDefinition(limits=Limits(total=11)),
    "limits.per_customer": CampaignDefinition(limits=Limits(per_customer=12)),
    "limits.per_code": CampaignDefinition(limits=Limits(per_code=13)),
    "limits.distinct_customers": CampaignDefinition(limits=Limits(distinct_customers=14)),
    "labels": CampaignDefinition(labels=["new"]),
    "stacking.priority": CampaignDefinition(stacking=Stacking(priority=15)),
    "effects": definition(effects=[{"percent_off": {"basis_points": 1_600}}]),
}


async def test_changes_of_different_fields_never_lose_each_other(client: Client) -> None:
    code = await create(client)
    rounds = 3
    await asyncio.gather(
        *(
            client.update_campaign(code, change, update_mask=[path])
            for path, change in CHANGES.items()
            for _ in range(rounds)
        )
    )
    campaign = await client.get_campaign(code)
    expected = definition(display_name="New", labels=["new"], effects=[{"percent_off": {"basis_points": 1_600}}])
    expected.limits.MergeFrom(Limits(total=11, per_customer=12, per_code=13, distinct_customers=14))
    expected.stacking.MergeFrom(Stacking(priority=15))
    assert campaign.definition == expected
    assert campaign.version == 1 + rounds * len(CHANGES)


async def test_a_mask_with_an_etag_loses_to_whoever_was_quicker(client: Client) -> None:
    code = await create(client)
    etag = (await client.get_campaign(code)).etag
    results = await asyncio.gather(
        *(client.update_campaign(code, change, update_mask=[path], etag=etag) for path, change in CHANGES.items()),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in results) == ["Campaign"] + [Changed.__name__] * (len(CHANGES) - 1)
    assert (await client.get_campaign(code)).version == 2


async def test_a_wrong_mask_names_the_path_and_a_wrong_value_the_field(client: Client) -> None:
    code = await create(client)
    for mask, change, field in (
        (["limits.sum"], CampaignDefinition(), "update_mask"),
        (["limits.total"], CampaignDefinition(limits=Limits(total=-1)), "definition.limits.total"),
        (["display_name"], CampaignDefinition(), "definition.display_name"),
        (["currency_code"], CampaignDefinition(currency_code="XXX"), "definition.currency_code"),
    ):
        for validate_only in (True, False):
            with pytest.raises(InvalidArgument) as caught:
                await client.update_campaign(code, change, update_mask=mask, validate_only=validate_only)
            assert list(caught.value.violations) == [field]
    assert (await client.get_campaign(code)).version == 1
    # What is not named is not even looked at.
    shown = await client.update_campaign(
        code, CampaignDefinition(currency_code="XXX", labels=["new"]), update_mask=["labels"], validate_only=True
    )
    assert shown.definition == definition(labels=["new"])


async def test_a_cap_that_is_lowered_in_a_crowd_holds_from_its_answer_on(client: Client) -> None:
    code, cap = await create(client, limits={"total": 10_000}), 40
    answered = asyncio.Event()
    late: list[bool] = []

    async def shop(name: str) -> int:
        taken = 0
        for _ in range(40):
            is_late = answered.is_set()
            order = an_order(f"{code}-{uuid.uuid4()}")
            outcome = await client.redeem(code, Customer(id=name), order)
            taken += isinstance(outcome, Redemption)
            if is_late:
                late.append(isinstance(outcome, Redemption))
        return taken

    async def lower() -> int:
        while (await client.get_campaign(code)).redeemed_count <= cap:  # noqa: ASYNC110  # nobody signals
            await asyncio.sleep(0)
        change = CampaignDefinition(limits=Limits(total=cap))
        lowered = await client.update_campaign(code, change, update_mask=["limits.total"])
        answered.set()
        return lowered.redeemed_count

    at_answer, *taken = await asyncio.gather(lower(), *(shop(f"c-{number}") for number in range(16)))
    assert late
    assert not any(late)
    # Not one was taken behind the answer, and none before it came back.
    assert sum(taken) == at_answer == (await client.get_campaign(code)).redeemed_count > cap
