"""Every wrong request is refused with the field named and what would be accepted; nothing is decided or stored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.service import Service
from vouchsafe.client import (
    CampaignDefinition,
    Client,
    ClientError,
    Customer,
    Effect,
    InvalidArgument,
    NotFound,
    Order,
    OrderLine,
    PercentOff,
)
from vouchsafe.client._errors import from_rpc_error
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest, ListCampaignsRequest, PauseCampaignRequest
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceStub
from vouchsafe.v1.condition_pb2 import Condition, SetTest, ValueTest
from vouchsafe.v1.effect_pb2 import Bundle
from vouchsafe.v1.redemption_service_pb2 import GetRedemptionRequest, ValidateAndRedeemRequest, ValidateRequest
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

Change = Callable[[Any], object]


async def failure(service: Service, stub: type[Any], method: str, request: Any) -> ClientError:
    """What the call fails with."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub(channel), method)(request, timeout=10, metadata=service.metadata)
    return from_rpc_error(caught.value)


def a_request() -> ValidateAndRedeemRequest:
    return ValidateAndRedeemRequest(
        request_id="request-1",
        codes=["CODE"],
        customer=Customer(id="customer-1"),
        order=Order(
            id="order-1", currency_code="EUR", lines=[OrderLine(sku="sku", quantity=1, unit_price_minor=1_000)]
        ),
    )


BAD_REQUESTS: dict[str, tuple[Change, str]] = {
    "no request id": (lambda r: r.ClearField("request_id"), "request_id"),
    "long request id": (lambda r: setattr(r, "request_id", "x" * 129), "request_id"),
    "request id with a space": (lambda r: setattr(r, "request_id", "a b"), "request_id"),
    "request id with a newline": (lambda r: setattr(r, "request_id", "a\n"), "request_id"),
    "no code": (lambda r: r.ClearField("codes"), "codes"),
    "eleven codes": (lambda r: r.codes.extend(f"OTHER-{n}" for n in range(10)), "codes"),
    "a code twice": (lambda r: r.codes.append(r.codes[0].lower()), "codes[1]"),
    "a currency that is none": (lambda r: setattr(r.order, "currency_code", "EUX"), "order.currency_code"),
    "empty code": (lambda r: r.codes.__setitem__(0, ""), "codes[0]"),
    "short code": (lambda r: r.codes.__setitem__(0, "AB"), "codes[0]"),
    "long code": (lambda r: r.codes.__setitem__(0, "A" * 65), "codes[0]"),
    "code with a brace": (lambda r: r.codes.__setitem__(0, "A{p01}"), "codes[0]"),
    "code beyond ASCII": (lambda r: r.codes.__setitem__(0, "RABATTÜ"), "codes[0]"),
    "no customer": (lambda r: r.ClearField("customer"), "customer"),
    "no customer id": (lambda r: r.customer.ClearField("id"), "customer.id"),
    "long customer id": (lambda r: setattr(r.customer, "id", "x" * 129), "customer.id"),
    "long email": (lambda r: setattr(r.customer, "email", "x" * 255), "customer.email"),
    "country in small letters": (lambda r: setattr(r.customer, "country_code", "de"), "customer.country_code"),
    "too many segments": (lambda r: r.customer.segments.extend(["s"] * 65), "customer.segments"),
    "empty segment": (lambda r: r.customer.segments.append(""), "customer.segments[0]"),
    "too many attributes": (
        lambda r: r.customer.attributes.update({f"k{n}": "v" for n in range(65)}),
        "customer.attributes",
    ),
    "long attribute": (lambda r: r.customer.attributes.update({"k": "v" * 257}), "customer.attributes['k']"),
    "no order": (lambda r: r.ClearField("order"), "order"),
    "no order id": (lambda r: r.order.ClearField("id"), "order.id"),
    "order id with a space": (lambda r: setattr(r.order, "id", "a b"), "order.id"),
    "no currency": (lambda r: r.order.ClearField("currency_code"), "order.currency_code"),
    "currency in words": (lambda r: setattr(r.order, "currency_code", "Euro"), "order.currency_code"),
    "no lines": (lambda r: r.order.ClearField("lines"), "order.lines"),
    "too many lines": (lambda r: r.order.lines.extend([r.order.lines[0]] * 200), "order.lines"),
    "a NUL in a sku": (lambda r: setattr(r.order.lines[0], "sku", "a\0b"), "order.lines[0].sku"),
    "no sku": (lambda r: r.order.lines[0].ClearField("sku"), "order.lines[0].sku"),
    "quantity of zero": (lambda r: setattr(r.order.lines[0], "quantity", 0), "order.lines[0].quantity"),
    "negative quantity": (lambda r: setattr(r.order.lines[0], "quantity", -1), "order.lines[0].quantity"),
    "huge quantity": (lambda r: setattr(r.order.lines[0], "quantity", 10_001), "order.lines[0].quantity"),
    "negative price": (lambda r: setattr(r.order.lines[0], "unit_price_minor", -1), "order.lines[0].unit_price_minor"),
    "huge price": (
        lambda r: setattr(r.order.lines[0], "unit_price_minor", 10**11 + 1),
        "order.lines[0].unit_price_minor",
    ),
    "negative shipping": (lambda r: setattr(r.order, "shipping_minor", -1), "order.shipping_minor"),
    "an order beyond 10^15": (
        lambda r: r.order.lines.extend([OrderLine(sku="gold", quantity=10_000, unit_price_minor=10**11)] * 2),
        "order.lines",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_to_redeem_names_its_field(service: Service, name: str) -> None:
    change, field = BAD_REQUESTS[name]
    request = a_request()
    change(request)
    error = await failure(service, RedemptionServiceStub, "ValidateAndRedeem", request)
    assert isinstance(error, InvalidArgument)
    assert list(error.violations) == [field]
    assert error.violations[field]
    if field != "request_id":
        same = ValidateRequest(codes=request.codes)
        if request.HasField("customer"):
            same.customer.CopyFrom(request.customer)
        if request.HasField("order"):
            same.order.CopyFrom(request.order)
        error = await failure(service, RedemptionServiceStub, "Validate", same)
        assert isinstance(error, InvalidArgument)
        assert list(error.violations) == [field]


async def test_all_violations_are_told_at_once(service: Service) -> None:
    error = await failure(service, RedemptionServiceStub, "ValidateAndRedeem", ValidateAndRedeemRequest())
    assert isinstance(error, InvalidArgument)
    assert set(error.violations) == {"request_id", "codes", "customer", "order"}


def a_campaign_request() -> CreateCampaignRequest:
    return CreateCampaignRequest(
        campaign_id="x",
        definition=CampaignDefinition(display_name="x", effects=[Effect(percent_off=PercentOff(basis_points=1_000))]),
        shared_codes=[f"C-{uuid.uuid4()}"],
    )


def window(start: str, end: str) -> Change:
    def change(request: CreateCampaignRequest) -> None:
        request.definition.start_time.FromJsonString(start)
        request.definition.end_time.FromJsonString(end)

    return change


BAD_CAMPAIGNS: dict[str, tuple[Change, str]] = {
    "no id": (lambda r: r.ClearField("campaign_id"), "campaign_id"),
    "id in capitals": (lambda r: setattr(r, "campaign_id", "SALE"), "campaign_id"),
    "id with a space": (lambda r: setattr(r, "campaign_id", "a sale"), "campaign_id"),
    "long id": (lambda r: setattr(r, "campaign_id", "x" * 64), "campaign_id"),
    "no definition": (lambda r: r.ClearField("definition"), "definition"),
    "no name": (lambda r: r.definition.ClearField("display_name"), "definition.display_name"),
    "long name": (lambda r: setattr(r.definition, "display_name", "x" * 201), "definition.display_name"),
    "no effect": (lambda r: r.definition.ClearField("effects"), "definition.effects"),
    "an effect of no kind": (lambda r: r.definition.effects.add(), "definition.effects[1].kind"),
    "zero percent": (
        lambda r: setattr(r.definition.effects[0].percent_off, "basis_points", 0),
        "definition.effects[0].percent_off.basis_points",
    ),
    "over 100 percent": (
        lambda r: setattr(r.definition.effects[0].percent_off, "basis_points", 10_001),
        "definition.effects[0].percent_off.basis_points",
    ),
    "an amount of no currency": (
        lambda r: setattr(r.definition.effects.add().amount_off, "amount_minor", 500),
        "definition.currency_code",
    ),
    "a currency that is none": (lambda r: setattr(r.definition, "currency_code", "EUX"), "definition.currency_code"),
    "an empty bundle": (
        lambda r: r.definition.MergeFrom(CampaignDefinition(currency_code="EUR", effects=[Effect(bundle=Bundle())])),
        "definition.effects[1].bundle.items",
    ),
    "a condition that asks nothing": (
        lambda r: r.definition.conditions.add().segments.SetInParent(),
        "definition.conditions[0].segments",
    ),
    "a condition of no kind": (lambda r: r.definition.conditions.add(), "definition.conditions[0].test"),
    "an expression with a mistake": (
        lambda r: setattr(r.definition.expression, "text", "customer.contry == 'DE'"),
        "definition.expression.text",
    ),
    "a schedule that never opens": (
        lambda r: r.definition.schedule.blackouts.add(first_date="2000-01-01", last_date="2199-12-31"),
        "definition.schedule",
    ),
    "an unknown zone": (
        lambda r: setattr(r.definition.schedule, "time_zone", "Europe/Atlantis"),
        "definition.schedule.time_zone",
    ),
    "a field of a later release": (
        lambda r: r.definition.conditions.add(segments=SetTest(any=["vip"])).segments.MergeFromString(b"\x7a\x03all"),
        "definition.conditions[0].segments",
    ),
    "too large a definition": (
        lambda r: r.definition.conditions.extend(
            Condition(customer_ids=ValueTest(any=["x" * 128] * 600)) for _ in range(1)
        ),
        "definition",
    ),
    "name with a control character": (
        lambda r: setattr(r.definition, "display_name", "a\0b"),
        "definition.display_name",
    ),
    "limit of zero": (lambda r: setattr(r.definition.limits, "total", 0), "definition.limits.total"),
    "negative limit": (lambda r: setattr(r.definition.limits, "total", -1), "definition.limits.total"),
    "customer limit of zero": (
        lambda r: setattr(r.definition.limits, "per_customer", 0),
        "definition.limits.per_customer",
    ),
    "end before start": (window("2031-01-02T00:00:00Z", "2031-01-01T00:00:00Z"), "definition.end_time"),
    "end at start": (window("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z"), "definition.end_time"),
    "start in the year 1": (window("0001-01-01T00:00:00Z", "2031-01-01T00:00:00Z"), "definition.start_time"),
    "bad shared code": (lambda r: r.shared_codes.append("a b c"), "shared_codes[1]"),
    "bad single-use code": (lambda r: r.single_use_codes.append("äöü"), "single_use_codes[0]"),
    "too many shared codes": (lambda r: r.shared_codes.extend(f"C{n:03}" for n in range(100)), "shared_codes"),
    "a code twice": (lambda r: r.single_use_codes.append(r.shared_codes[0].lower()), "single_use_codes[0]"),
}


@pytest.mark.parametrize("name", BAD_CAMPAIGNS)
async def test_a_bad_campaign_names_its_field_and_creates_nothing(service: Service, client: Client, name: str) -> None:
    change, field = BAD_CAMPAIGNS[name]
    request = a_campaign_request()
    change(request)
    error = await failure(service, CampaignServiceStub, "CreateCampaign", request)
    assert isinstance(error, InvalidArgument)
    assert list(error.violations) == [field]
    assert error.violations[field]
    with pytest.raises(NotFound):
        await client.get_campaign("x")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "bm90IGpzb24=",
        "WzEsMl0=",
        "WzFlMzAwLCAieCJd",
        "Wy0xLCAieCJd",
        "WzEsICJcdTAwMDAiXQ==",
        "eyJhIjoxfQ==",
        "x" * 257,
        "é",
    ],
)
async def test_a_page_token_that_is_none_is_told_apart(service: Service, token: str) -> None:
    error = await failure(service, CampaignServiceStub, "ListCampaigns", ListCampaignsRequest(page_token=token))
    assert isinstance(error, InvalidArgument)
    assert list(error.violations) == ["page_token"]


@pytest.mark.parametrize("page_size", [-1, 501])
async def test_a_page_size_out_of_bounds_is_refused(service: Service, page_size: int) -> None:
    error = await failure(service, CampaignServiceStub, "ListCampaigns", ListCampaignsRequest(page_size=page_size))
    assert list(error.violations) == ["page_size"]


@pytest.mark.parametrize("id_", ["", "1", "r3-1-2-3", "r03-1-2", "r03-1-2-3-4", "r03-1-2-x", "r03-1--2-3"])
async def test_what_is_no_redemption_id_is_refused(service: Service, id_: str) -> None:
    error = await failure(service, RedemptionServiceStub, "GetRedemption", GetRedemptionRequest(redemption_id=id_))
    assert list(error.violations) == ["redemption_id"]


async def test_a_long_pause_reason_is_refused(service: Service) -> None:
    request = PauseCampaignRequest(campaign_id="x", reason="x" * 501)
    error = await failure(service, CampaignServiceStub, "PauseCampaign", request)
    assert list(error.violations) == ["reason"]


async def test_a_message_that_is_too_large_is_refused(service: Service) -> None:
    request = a_request()
    request.customer.email = "x" * (service.settings.max_message_bytes + 1)
    error = await failure(service, RedemptionServiceStub, "ValidateAndRedeem", request)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_are_no_message_are_refused(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        call: Any = channel.unary_unary("/vouchsafe.v1.RedemptionService/ValidateAndRedeem")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff", timeout=10, metadata=service.metadata)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_method_that_is_none_is_unimplemented(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        call: Any = channel.unary_unary("/vouchsafe.v1.RedemptionService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_thousand_mistakes_are_told_in_time_and_in_bounds(service: Service) -> None:
    request = a_request()
    del request.order.lines[:]
    request.order.lines.extend(OrderLine() for _ in range(100_000))
    async with asyncio.timeout(5):
        error = await failure(service, RedemptionServiceStub, "ValidateAndRedeem", request)
    assert isinstance(error, InvalidArgument)
    assert 1 <= len(error.violations) <= 20


@pytest.mark.parametrize("id_", ["r00-1-99999999999999999999-0", "r00-99999999999999999999-1-0"])
async def test_a_redemption_id_beyond_all_bounds_is_not_found(service: Service, id_: str) -> None:
    error = await failure(service, RedemptionServiceStub, "GetRedemption", GetRedemptionRequest(redemption_id=id_))
    assert isinstance(error, NotFound)
