"""What a campaign says is what a checkout gets, through real gRPC, the gate and the ledger."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from google.protobuf.json_format import ParseDict

from tests.service import Service, an_order, settle
from vouchsafe.client import (
    AssignedCode,
    CampaignDefinition,
    Changed,
    Client,
    Combining,
    Coverage,
    Customer,
    InvalidArgument,
    NotFound,
    Offer,
    Order,
    OrderLine,
    Redemption,
    Refusal,
    RefusalReason,
    Sequencing,
)

SHOPPER = Customer(id="customer-1")
TEN_PERCENT = {"percent_off": {"basis_points": 1_000}}
JOINT = {"mode": "COMBINE_MODE_JOINT"}


def definition(**fields: Any) -> CampaignDefinition:
    return ParseDict({"display_name": "Sale", "effects": [TEN_PERCENT], **fields}, CampaignDefinition())


async def create(client: Client, **fields: Any) -> str:
    """A campaign whose id is its only code."""
    code = f"c-{uuid.uuid4()}"
    await client.create_campaign(code, definition(**fields), shared_codes=[code])
    return code


def reason(outcome: object) -> str:
    assert isinstance(outcome, Refusal), outcome
    return RefusalReason.Name(outcome.reason).removeprefix("REFUSAL_REASON_")


async def test_line_discounts_are_answered_kept_and_read_back(service: Service, client: Client) -> None:
    code = await create(
        client,
        currency_code="EUR",
        effects=[
            {
                "percent_off": {"basis_points": 2_000, "target": {"kind": "TARGET_KIND_EACH_LINE"}},
                "max_amount_per_line_minor": 900,
            },
            {"free_shipping": {}},
        ],
    )
    order = Order(
        id=f"order-{code}",
        currency_code="EUR",
        shipping_minor=490,
        lines=[
            OrderLine(sku="boot", quantity=1, unit_price_minor=6_000),
            OrderLine(sku="lace", quantity=3, unit_price_minor=199),
        ],
    )
    taken = await client.redeem(code, SHOPPER, order)
    assert isinstance(taken, Redemption)
    (applied,) = taken.applied_codes
    assert [(line.sku, line.desired_minor, line.discount_minor, list(line.caps)) for line in applied.lines] == [
        ("boot", 1_200, 900, [2]),
        ("lace", 119, 119, []),
    ]
    assert (applied.shipping_discount_minor, applied.desired_minor, applied.discount_minor) == (490, 1_809, 1_509)
    await settle(service.settings)
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        (row,) = await connection.fetch(
            "select discount_minor, discount ->> 'shipping_minor' as shipping from redemptions where id = $1", taken.id
        )
    finally:
        await connection.close()
    assert (row["discount_minor"], row["shipping"]) == (1_509, "490")
    assert await client.get_redemption(taken.id) == taken


async def test_a_refusal_in_the_campaigns_words_is_answered_again(client: Client) -> None:
    code = await create(
        client,
        conditions=[{"countries": {"any": ["DE"]}, "message": "Nur für Deutschland 🇩🇪 = %20 ok"}],
    )
    first = await client.redeem(code, Customer(id="c", country_code="AT"), an_order(code), request_id=f"r-{code}")
    assert reason(first) == "COUNTRY_NOT_ELIGIBLE"
    assert first.message == "Nur für Deutschland 🇩🇪 = %20 ok"  # type: ignore[union-attr]  # a refusal, as above
    again = await client.redeem(code, Customer(id="c", country_code="AT"), an_order(code), request_id=f"r-{code}")
    assert again == first


async def test_a_code_that_was_given_is_for_its_holder(client: Client) -> None:
    id_ = f"c-{uuid.uuid4()}"
    rules = definition(conditions=[{"holder_only": {}}], code_validity="604800s")
    given = [AssignedCode(code=f"{id_}-1", customer_id="alice"), AssignedCode(code=f"{id_}-2", customer_id="bob")]
    await client.create_campaign(id_, rules, assigned_codes=given)
    assert reason(await client.redeem(f"{id_}-1", Customer(id="bob"), an_order("o-1"))) == "NOT_THE_HOLDER"
    assert isinstance(await client.redeem(f"{id_}-1", Customer(id="alice"), an_order(f"{id_}-1")), Redemption)
    assert reason(await client.redeem(f"{id_}-1", Customer(id="alice"), an_order(f"{id_}-2"))) == "CODE_LIMIT_REACHED"


# -- changing a campaign ----------------------------------------------------------------------------------------------


async def test_an_update_decides_from_its_answer_on_on_every_worker(client: Client) -> None:
    code = await create(client)
    for number in range(16):  # so that every worker has the first version in its cache
        outcome = await client.redeem(code, SHOPPER, an_order(f"{code}-{number}"))
        assert isinstance(outcome, Redemption)
        assert outcome.discount_minor == 500
    updated = await client.update_campaign(code, definition(effects=[{"percent_off": {"basis_points": 2_000}}]))
    assert (updated.version, updated.redeemed_count) == (2, 16)
    outcomes = await asyncio.gather(*(client.redeem(code, SHOPPER, an_order(f"{code}-x{n}")) for n in range(64)))
    assert {(one.discount_minor, one.applied_codes[0].campaign_version) for one in outcomes} == {(1_000, 2)}  # type: ignore[union-attr]  # all redeemed


async def test_a_repetition_gets_the_first_answer_whatever_was_changed_since(service: Service, client: Client) -> None:
    code = await create(client)
    order, request_id = an_order(code), f"r-{code}"
    first = await client.redeem(code, SHOPPER, order, request_id=request_id)
    await client.update_campaign(code, definition(effects=[{"percent_off": {"basis_points": 5_000}}]))
    assert await client.redeem(code, SHOPPER, order, request_id=request_id) == first
    await settle(service.settings)
    assert await client.redeem(code, SHOPPER, order, request_id=request_id) == first
    # The same order again under a new request id: one use, and still the first discount.
    assert await client.redeem(code, SHOPPER, order) == first


async def test_a_lost_update_is_told_and_changes_nothing(client: Client) -> None:
    code = await create(client)
    etag = (await client.get_campaign(code)).etag
    one, other = definition(display_name="One"), definition(display_name="Other")
    results = await asyncio.gather(
        client.update_campaign(code, one, etag=etag),
        client.update_campaign(code, other, etag=etag),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Campaign", "Changed"]
    now = await client.get_campaign(code)
    assert (now.version, now.etag == etag) == (2, False)
    with pytest.raises(Changed):
        await client.update_campaign(code, one, etag=etag, validate_only=True)
    with pytest.raises(NotFound):
        await client.update_campaign("nobody", one)
    with pytest.raises(InvalidArgument) as caught:
        await client.update_campaign(code, one, etag="yesterday")
    assert list(caught.value.violations) == ["etag"]


async def test_saving_again_and_again_moves_no_moment(client: Client) -> None:
    # woocommerce-android PR 16279: expiry drifted on each save; easy-digital-downloads 7492: it came hours early
    code = await create(
        client,
        start_time="2026-03-28T23:30:00.123+01:00",
        end_time="2031-10-26T02:30:00.999+02:00",
        schedule={
            "time_zone": "Europe/Berlin",
            "weekly": [{"start_time": "02:00", "end_time": "03:00"}],
            "recurrences": [{"rrule": "FREQ=WEEKLY", "first_start": "2026-03-29T02:30", "duration": "3600s"}],
        },
        code_validity="604800s",
    )
    first = (await client.get_campaign(code)).definition
    assert first.end_time.ToJsonString() == "2031-10-26T00:30:00.999Z"
    for _ in range(5):
        saved = await client.get_campaign(code)
        await client.update_campaign(code, saved.definition, etag=saved.etag)
    last = await client.get_campaign(code)
    assert (last.version, last.definition) == (6, first)


async def test_validate_only_creates_and_changes_nothing(client: Client) -> None:
    code = f"c-{uuid.uuid4()}"
    shown = await client.create_campaign(code, definition(), shared_codes=[code], validate_only=True)
    assert (shown.id, shown.definition, shown.version) == (code, definition(), 0)
    with pytest.raises(NotFound):
        await client.get_campaign(code)
    code = await create(client)
    changed = await client.update_campaign(code, definition(display_name="New"), validate_only=True)
    assert changed.definition.display_name == "New"
    assert (await client.get_campaign(code)).definition.display_name == "Sale"


async def test_every_violation_is_told_at_once(client: Client) -> None:
    flawed = definition(
        currency_code="EUX",
        effects=[{"percent_off": {"basis_points": 20_000}}, {"bundle": {}}],
        conditions=[{"order_number": {"min": 3, "max": 2}}, {"segments": {"all": ["a"], "none": ["a"]}}],
        start_time="2026-12-01T00:00:00Z",
        end_time="2026-11-01T00:00:00Z",
        schedule={"time_zone": "Europe/Atlantis"},
        expression={"text": "customer.contry == 'DE'"},
    )
    with pytest.raises(InvalidArgument) as caught:
        await client.create_campaign("flawed", flawed, shared_codes=["X"])
    assert set(caught.value.violations) == {
        "definition.currency_code",
        "definition.effects[0].percent_off.basis_points",
        "definition.effects[1].bundle.items",
        "definition.conditions[0].order_number.max",
        "definition.conditions[1].segments.none",
        "definition.end_time",
        "definition.schedule.time_zone",
        "definition.expression.text",
        "shared_codes[0]",
    }


# -- several codes ----------------------------------------------------------------------------------------------------


async def test_codes_are_validated_together(client: Client) -> None:
    sum_off = [{"amount_off": {"amount_minor": 1_000}}]
    sums = await create(client, effects=sum_off, currency_code="EUR", stacking=JOINT)
    half = await create(client, effects=[{"percent_off": {"basis_points": 5_000}}], stacking=JOINT)
    alone = await create(client, stacking={"mode": "COMBINE_MODE_EXCLUSIVE"})
    dear = await create(client, currency_code="EUR", conditions=[{"amount": {"min_minor": 5_800}}], stacking=JOINT)
    other = await create(client, stacking={"mode": "COMBINE_MODE_EXCLUSIVE"})
    codes = [sums, half, alone, dear, other, "NOBODY"]
    order = an_order(f"o-{sums}")

    everything = await client.validate_codes(codes, SHOPPER, order)
    assert reason(everything.refusal) == "CODE_UNKNOWN"
    part = Combining(coverage=Coverage.COVERAGE_APPLICABLE_PART)
    found = await client.validate_codes(codes, SHOPPER, order, combining=part)
    assert [(one.code.lower(), one.discount_minor) for one in found.offer.applied_codes] == [
        (sums, 1_000),
        (half, 2_000),
        (alone, 200),
    ]
    assert not found.offer.HasField("is_best_deal")
    assert {(one.code.lower(), reason(one)) for one in found.inapplicable} == {
        (dear, "AMOUNT_OUT_OF_RANGE"),
        ("nobody", "CODE_UNKNOWN"),
    }
    (near_miss,) = [one for one in found.inapplicable if one.code.lower() == dear]
    assert near_miss.metadata["missing_minor"] == "800"
    assert [(one.code.lower(), reason(one)) for one in found.skipped] == [(other, "NOT_COMBINABLE")]

    best = Combining(sequencing=Sequencing.SEQUENCING_BEST_DEAL, coverage=Coverage.COVERAGE_APPLICABLE_PART)
    deal = (await client.validate_codes(codes, SHOPPER, order, combining=best)).offer
    assert deal.is_best_deal
    assert deal.discount_minor == 2_750 + 1_000 == sum(one.discount_minor for one in deal.applied_codes)


async def test_a_code_that_the_gate_refuses_makes_room_for_another(client: Client) -> None:
    used_up = await create(client, limits={"total": 1}, stacking={"priority": 5})
    assert isinstance(await client.redeem(used_up, SHOPPER, an_order(f"{used_up}-1")), Redemption)
    spare = await create(client)
    part = Combining(coverage=Coverage.COVERAGE_APPLICABLE_PART)
    found = await client.validate_codes([used_up, spare], SHOPPER, an_order(f"{used_up}-2"), combining=part)
    assert [one.code.lower() for one in found.offer.applied_codes] == [spare]
    assert [reason(one) for one in found.inapplicable] == ["CAMPAIGN_LIMIT_REACHED"]
    assert not found.skipped


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_schedule_opens_by_the_stores_clock(client: Client) -> None:
    now = datetime.now(UTC)
    opens = (now + timedelta(minutes=2)).strftime("%H:%M")
    closes = (now + timedelta(hours=2)).strftime("%H:%M")
    closed = await create(client, schedule={"weekly": [{"start_time": opens, "end_time": closes}]})
    outcome = await client.redeem(closed, SHOPPER, an_order(closed))
    assert reason(outcome) == "OUTSIDE_SCHEDULE"
    assert f"T{opens}:00Z" in outcome.metadata["next_open_time"]  # type: ignore[union-attr]  # a refusal, as above
    opened = (now - timedelta(minutes=2)).strftime("%H:%M")
    open_now = await create(client, schedule={"weekly": [{"start_time": opened, "end_time": closes}]})
    assert isinstance(await client.redeem(open_now, SHOPPER, an_order(open_now)), Redemption)


async def test_an_expression_may_read_the_clock(client: Client) -> None:
    long_ago = "2026-01-01T00:00:00Z"
    code = await create(
        client,
        expression={"text": 'now - timestamp(customer.attributes["last_order_time"]) > duration("720h")'},
    )
    back = Customer(id="c", attributes={"last_order_time": long_ago})
    assert isinstance(await client.redeem(code, back, an_order(f"{code}-1")), Redemption)
    recent = Customer(id="c", attributes={"last_order_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})
    assert reason(await client.redeem(code, recent, an_order(f"{code}-2"))) == "EXPRESSION_NOT_MET"


# -- explaining -------------------------------------------------------------------------------------------------------


async def test_explain_lists_everything_that_was_looked_at(client: Client) -> None:
    code = await create(
        client,
        conditions=[
            {"segments": {"any": ["vip"]}},
            {"countries": {"any": ["DE"]}, "on_missing": "ON_MISSING_OPEN"},
            {"channels": {"any": ["app"]}},
        ],
    )
    found = await client.validate_codes(
        [code, "nobody"], Customer(id="c", segments=["vip"]), an_order(code), explain=True
    )
    known, unknown = found.traces
    assert [(entry.path, entry.held) for entry in known.entries] == [
        ("conditions[0].segments", True),
        ("conditions[1].countries", True),
        ("conditions[2].channels", False),
        ("effects", True),
    ]
    assert (known.campaign_id, known.campaign_version) == (code, 1)
    assert "OPEN" in known.entries[1].note
    assert "order.channel was not sent" in known.entries[2].note
    assert (unknown.code, unknown.campaign_id, list(unknown.entries)) == ("NOBODY", "", [])
    assert not (await client.validate_codes([code], SHOPPER, an_order(code))).traces
    assert isinstance(await client.validate(code, Customer(id="c", segments=["vip"]), an_order(code)), Offer | Refusal)
