"""What a storefront is told of codes that its shoppers cannot use: one thing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from tests.guarded import Caller, a_key, fresh, throttled_by
from tests.service import Service, a_campaign, an_order
from vouchsafe.client import (
    CampaignDefinition,
    Client,
    Combining,
    Coverage,
    Customer,
    KillSwitchScope,
    RefusalReason,
    Sequencing,
)
from vouchsafe.domain.access import Role
from vouchsafe.domain.reasons import HIDDEN as HIDDEN_REASONS
from vouchsafe.domain.reasons import Reason
from vouchsafe.service.guessing import EVEN_S
from vouchsafe.v1 import redemption_service_pb2 as pb

WEEKDAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
# Not open before three days from now.
A_WINDOW = {
    "weekdays": [f"WEEKDAY_{WEEKDAYS[(datetime.now(UTC).weekday() + 3) % 7]}"],
    "start_time": "00:00",
    "end_time": "24:00",
}
HIDDEN: dict[str, dict[str, Any] | None] = {
    "CODE_UNKNOWN": None,
    "KILL_SWITCH_ENGAGED": {},
    "CODE_DISABLED": {},
    "CAMPAIGN_PAUSED": {},
    "CAMPAIGN_NOT_STARTED": {"start_time": "2090-01-01T00:00:00Z"},
    "CAMPAIGN_ENDED": {"end_time": "2020-01-01T00:00:00Z"},
    "OUTSIDE_SCHEDULE": {"schedule": {"time_zone": "UTC", "weekly": [A_WINDOW]}},
    "CODE_EXPIRED": {},
    "NOT_THE_HOLDER": {"conditions": [{"holder_only": {}}]},
    "CUSTOMER_NOT_ELIGIBLE": {"conditions": [{"segments": {"any": ["staff"]}, "message": "Staff only."}]},
    "COUNTRY_NOT_ELIGIBLE": {"conditions": [{"countries": {"any": ["IS"]}}]},
    "CHANNEL_NOT_ELIGIBLE": {"conditions": [{"channels": {"any": ["kiosk"]}}]},
    "DATE_NOT_ELIGIBLE": {"conditions": [{"anniversary": {"attribute": "birthday"}}]},
}


async def a_code(admin: Client, name: str, changes: dict[str, Any], **codes: Any) -> str:
    """A code of a campaign of its own that takes off a tenth, but for the changes."""
    code = fresh(name).upper()
    plain = {"display_name": name, "effects": [{"percent_off": {"basis_points": 1_000}}]}
    definition = ParseDict(plain | changes, CampaignDefinition())
    await admin.create_campaign(code.lower(), definition, **(codes or {"shared_codes": [code]}))
    return code


@pytest.fixture(scope="module")
def hidden(guarded: Service) -> dict[str, str]:
    """By reason, a code that a shopper cannot use whatever they buy."""

    async def create() -> dict[str, str]:
        async with guarded.client(timeout_s=30) as admin:
            codes = {
                reason: await a_code(admin, reason.replace("_", "-"), changes)
                for reason, changes in HIDDEN.items()
                if changes is not None
            }
            codes["CODE_UNKNOWN"] = fresh("UNKNOWN").upper()
            await admin.engage_kill_switch(KillSwitchScope(code=codes["KILL_SWITCH_ENGAGED"]))
            await admin.disable_code(codes["CODE_DISABLED"], "leaked")
            await admin.pause_campaign(codes["CAMPAIGN_PAUSED"].lower())
            gift = await admin.gift_code(codes["CODE_EXPIRED"].lower(), "c", valid_for_s=1)
            codes["CODE_EXPIRED"] = gift.code
            await asyncio.sleep(1.5)
            return codes

    return asyncio.run(create())


METHODS: Sequence[Callable[..., Any]] = (pb.ValidateRequest, pb.ValidateAndRedeemRequest, pb.ReserveRedemptionRequest)


def a_request(kind: Callable[..., Any], *codes: str, id_: str = "", **more: Any) -> Any:
    """Of a customer and from a source that have failed with nothing yet."""
    name = fresh("x")
    ids = {} if kind is pb.ValidateRequest else {"request_id": id_ or name}
    return kind(codes=codes, customer=Customer(id=name, source=name), order=an_order(name), **ids, **more)


def plain(answer: Any) -> bytes:
    """A refusal, or what is told beside a yes, without the codes."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    for field in ("redemption", "reservation", "offer"):
        if field in copy.DESCRIPTOR.fields_by_name and copy.HasField(field):
            copy.ClearField(field)
    for one in (*copy.inapplicable, *copy.skipped, *([copy.refusal] if copy.HasField("refusal") else [])):
        one.code = ""
    return bytes(copy.SerializeToString(deterministic=True))


@pytest.mark.parametrize("kind", METHODS)
async def test_all_that_is_hidden_is_the_same_to_the_byte(
    guarded: Service, hidden: dict[str, str], kind: Callable[..., Any]
) -> None:
    async with (
        Caller(guarded, await a_key(guarded, Role.CHECKOUT)) as shop,
        Caller(guarded, await a_key(guarded, Role.STOREFRONT)) as storefront,
    ):
        told = set()
        for reason, code in hidden.items():
            # Who is trusted is told which it is.
            outcome = (await shop.ask(a_request(kind, code))).refusal
            assert RefusalReason.Name(outcome.reason) == f"REFUSAL_REASON_{reason}"
            started = time.monotonic()
            answer = await storefront.ask(a_request(kind, code))
            assert time.monotonic() - started >= EVEN_S
            assert (answer.refusal.code, answer.refusal.metadata) == (code, {})
            told.add(plain(answer))
        assert len(told) == 1
        assert answer.refusal.reason == RefusalReason.REFUSAL_REASON_CODE_NOT_USABLE
    assert {reason.name for reason in Reason if reason in HIDDEN_REASONS} == HIDDEN.keys()


@pytest.mark.parametrize("kind", METHODS)
async def test_no_other_code_and_no_repetition_makes_a_difference(
    guarded: Service, hidden: dict[str, str], kind: Callable[..., Any]
) -> None:
    """A code that would keep all others out, how the codes go together, and what became of a request id."""
    async with guarded.client(timeout_s=30) as admin:
        alone = await a_code(admin, "alone", {"stacking": {"mode": "COMBINE_MODE_EXCLUSIVE", "priority": 9}})
    part = Coverage.COVERAGE_APPLICABLE_PART
    async with Caller(guarded, await a_key(guarded, Role.STOREFRONT)) as storefront:

        async def twice(*codes: str, combining: Combining) -> tuple[bytes, bytes]:
            request = a_request(kind, *codes, combining=combining)
            first, again = await storefront.ask(request), await storefront.ask(request)
            if first.HasField("refusal"):
                assert first.refusal.code == next(code for code in codes if code != alone)
                assert [one.code for one in first.inapplicable] == [code for code in codes if code != alone]
            return plain(first), plain(again)

        for combining in (
            Combining(coverage=part),
            Combining(coverage=part, max_codes=1),
            Combining(max_codes=1),
            Combining(sequencing=Sequencing.SEQUENCING_BEST_DEAL),
        ):
            told = [await twice(alone, code, combining=combining) for code in hidden.values()]
            assert len(set(told)) == 1, combining
        unknown = hidden["CODE_UNKNOWN"]
        others = [code for code in hidden.values() if code != unknown]
        pairs = [await twice(unknown, code, combining=Combining()) for code in others]
        pairs += [await twice(code, unknown, combining=Combining()) for code in others]
        assert len(set(pairs)) == 1


@pytest.mark.parametrize("kind", METHODS[1:])
async def test_a_request_id_tells_nothing_of_the_code_that_it_was_used_for(
    guarded: Service, hidden: dict[str, str], kind: Callable[..., Any]
) -> None:
    async with guarded.client(timeout_s=30) as admin:
        usable = await a_code(admin, "usable", {})
    async with Caller(guarded, await a_key(guarded, Role.STOREFRONT)) as storefront:
        for code in hidden.values():
            id_ = fresh("id")
            await storefront.ask(a_request(kind, code, id_=id_))
            again = await storefront.ask(a_request(kind, usable, id_=id_))
            assert again.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_what_is_wrong_with_the_order_is_told_of_a_code_that_could_be_used(guarded: Service) -> None:
    costly = {"currency_code": "EUR", "conditions": [{"amount": {"min_minor": 100_000}}]}
    async with guarded.client(timeout_s=30) as admin:
        open_code = await a_code(admin, "costly", costly)
        over = await a_code(admin, "costly-over", costly | {"end_time": "2020-01-01T00:00:00Z"})
    async with Caller(guarded, await a_key(guarded, Role.STOREFRONT)) as storefront:
        for kind in METHODS:
            refusal = (await storefront.ask(a_request(kind, open_code))).refusal
            assert refusal.reason == RefusalReason.REFUSAL_REASON_AMOUNT_OUT_OF_RANGE
            assert refusal.metadata["missing_minor"] == "95000"
            refusal = (await storefront.ask(a_request(kind, over))).refusal
            assert refusal.reason == RefusalReason.REFUSAL_REASON_CODE_NOT_USABLE
        # That it is too little is no guess: nobody is slowed for it.
        customer = Customer(id=fresh("c"), source="192.0.2.9")
        for _ in range(60):
            order = an_order(fresh("o"))
            answer = await storefront.ask(pb.ValidateRequest(codes=[open_code], customer=customer, order=order))
            assert answer.refusal.reason == RefusalReason.REFUSAL_REASON_AMOUNT_OUT_OF_RANGE
        explained = await storefront.ask(a_request(pb.ValidateRequest, open_code, explain=True))
        assert explained.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_sale_that_is_stopped_is_nobodys_guess_in_a_shop(guarded: Service, hidden: dict[str, str]) -> None:
    async with Caller(guarded, await a_key(guarded, Role.CHECKOUT)) as shop:
        for reason in ("CAMPAIGN_PAUSED", "CAMPAIGN_ENDED", "CODE_DISABLED"):
            answers = [await shop.validate(hidden[reason], "c", "192.0.2.11") for _ in range(50)]
            assert {RefusalReason.Name(one.refusal.reason) for one in answers} == {f"REFUSAL_REASON_{reason}"}
        answers = [await shop.validate(hidden["NOT_THE_HOLDER"], "c", "192.0.2.11") for _ in range(50)]
        assert throttled_by(answers[-1]) == "customer"


async def test_a_repetition_from_another_address_is_the_same_request(guarded: Service) -> None:
    async with guarded.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    async with Caller(guarded, await a_key(guarded, Role.CHECKOUT)) as shop:
        request = a_request(pb.ValidateAndRedeemRequest, code)
        first = await shop.ask(request)
        request.customer.source = "192.0.2.13"
        assert (await shop.ask(request)) == first
