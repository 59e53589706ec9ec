"""Trial runs through real gRPC: who may, at which times, and what the answer says of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from tests.adversity.test_access import client_of, known
from tests.grpc.test_bad_input import a_request, failure
from tests.service import Service, a_campaign, an_order
from vouchsafe import app
from vouchsafe.client import Client, Customer, InvalidArgument, PermissionDenied, RefusalReason
from vouchsafe.domain.access import Role
from vouchsafe.v1.redemption_service_pb2 import ValidateRequest
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

SHOPPER = Customer(id="customer-1")
BLACK_FRIDAY = datetime(2027, 11, 26, 8, tzinfo=UTC)


async def test_a_campaign_that_is_paused_and_not_begun_is_tried_for_its_day(client: Client) -> None:
    id_, code = await a_campaign(client)
    definition = (await client.get_campaign(id_)).definition
    definition.start_time.FromDatetime(BLACK_FRIDAY)
    await client.update_campaign(id_, definition)
    await client.pause_campaign(id_)
    order = an_order(f"o-{id_}")

    tried = await client.validate_codes([code], SHOPPER, order, at=BLACK_FRIDAY)
    assert tried.offer.discount_minor == 500
    assert tried.trial.time.ToDatetime(UTC) == BLACK_FRIDAY
    assert list(tried.trial.inactive_campaign_ids) == [id_]
    early = await client.validate_codes([code], SHOPPER, order, at=BLACK_FRIDAY - timedelta(milliseconds=1))
    assert early.refusal.reason == RefusalReason.REFUSAL_REASON_CAMPAIGN_NOT_STARTED
    await client.resume_campaign(id_)
    tried = await client.validate_codes([code], SHOPPER, order, at=BLACK_FRIDAY)
    assert not tried.trial.inactive_campaign_ids
    # What is no trial does not say that it is one.
    plain = await client.validate_codes([code], SHOPPER, order)
    assert not plain.HasField("trial")
    assert plain.refusal.reason == RefusalReason.REFUSAL_REASON_CAMPAIGN_NOT_STARTED
    assert (await client.get_campaign(id_)).redeemed_count == 0


@pytest.mark.parametrize("role", [Role.CHECKOUT, Role.SUPPORT, Role.OPERATOR])
async def test_a_trial_is_for_those_who_run_campaigns(service: Service, client: Client, role: Role) -> None:
    _, code = await a_campaign(client)
    key = await app.create_key(service.settings, f"trial-{role}", [role], None)
    # By both workers: each connection of its own reaches one of them by chance.
    for _ in range(16):
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(service.target, options=options) as channel:
            await known(channel, key)
    async with client_of(service, key) as caller:
        assert (await caller.validate_codes([code], SHOPPER, an_order(code))).HasField("offer")
        if role is Role.CHECKOUT:
            with pytest.raises(PermissionDenied, match=r"trial is for the roles support, operator, admin; .* checkout"):
                await caller.validate_codes([code], SHOPPER, an_order(code), at=BLACK_FRIDAY)
        else:
            tried = await caller.validate_codes([code], SHOPPER, an_order(code), at=BLACK_FRIDAY)
            assert tried.HasField("offer")


@pytest.mark.parametrize("seconds", [None, 946_684_799, 7_258_118_400])
async def test_a_trial_needs_a_time_that_campaigns_may_have(service: Service, seconds: int | None) -> None:
    good = a_request()
    request = ValidateRequest(codes=good.codes, customer=good.customer, order=good.order)
    request.trial.SetInParent()
    if seconds is not None:
        request.trial.time.seconds = seconds
    error = await failure(service, RedemptionServiceStub, "Validate", request)
    assert isinstance(error, InvalidArgument)
    assert list(error.violations) == ["trial.time"]


async def test_the_client_takes_no_time_without_a_zone(client: Client) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        await client.validate_codes(["CODE"], SHOPPER, an_order("o"), at=datetime(2027, 11, 26, 8))  # noqa: DTZ001  # that is it
