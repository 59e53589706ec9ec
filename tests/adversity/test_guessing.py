"""Whoever guesses codes: how many they are let through to, what they are told, and who is not hurt by it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from tests.opened import enter, open_all
from tests.service import Service, a_backlog, a_campaign, a_service, an_order
from tests.values import AN_ORDER, a_definition
from vouchsafe import app
from vouchsafe.client import (
    CampaignDefinition,
    Client,
    Combining,
    Coverage,
    Customer,
    KillSwitchScope,
    Redemption,
    RefusalReason,
    Sequencing,
    Throttled,
)
from vouchsafe.client import (
    Refusal as Refused,
)
from vouchsafe.domain.access import Principal, Role
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.combine import Combining as DomainCombining
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.guessing import Bucket, Kind
from vouchsafe.domain.order import Customer as DomainCustomer
from vouchsafe.domain.reasons import HIDDEN as HIDDEN_REASONS
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Redemption as DomainRedemption
from vouchsafe.embedded import free_port
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.committed import Committed
from vouchsafe.service.guessing import EVEN_S, Asker, Guessing
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Redeem
from vouchsafe.settings import Settings
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

WORKERS = 2
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Service]:
    """Two workers that tell what they count."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VOUCHSAFE_SERVER_METRICS_PORT", str(free_port()))
            running = stack.enter_context(a_service(tmp_path_factory.mktemp("guarded"), pytestconfig, workers=WORKERS))
        yield running


def fresh(name: str) -> str:
    """A name that no other test has used."""
    return f"{name}-{next(NUMBERS)}-{uuid.uuid4().hex[:8]}"


async def a_key(service: Service, role: Role) -> str:
    """A key of a caller of its own, which every worker knows."""
    key = await app.create_key(service.settings, fresh(role), [role], None)
    await asyncio.sleep(2.5)
    return key


class Caller:
    """Calls of one principal, over so many connections that each worker has some of them."""

    def __init__(self, service: Service, key: str, channels: int = 12) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.aio.insecure_channel(service.target, options=options) for _ in range(channels)]
        self._stubs = itertools.cycle([RedemptionServiceStub(channel) for channel in self._channels])
        self._metadata = (("authorization", f"Bearer {key}"),)

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(self, request: Any) -> Any:
        """The response, or the error."""
        stub: Any = next(self._stubs)
        method = {
            pb.ValidateRequest: stub.Validate,
            pb.ValidateAndRedeemRequest: stub.ValidateAndRedeem,
            pb.ReserveRedemptionRequest: stub.ReserveRedemption,
        }[type(request)]
        try:
            return await method(request, metadata=self._metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error

    async def validate(self, code: str, customer_id: str, source: str = "") -> Any:
        customer = Customer(id=customer_id, source=source)
        return await self.ask(pb.ValidateRequest(codes=[code], customer=customer, order=an_order(fresh("o"))))

    async def redeem(self, code: str, customer_id: str, source: str = "") -> Any:
        order = an_order(fresh("o"))
        customer = Customer(id=customer_id, source=source)
        return await self.ask(
            pb.ValidateAndRedeemRequest(request_id=order.id, codes=[code], customer=customer, order=order)
        )


def is_throttled(answer: Any) -> bool:
    """Whether it is the error for who has failed too often, with all that belongs to it."""
    if not isinstance(answer, grpc.aio.AioRpcError):
        return False
    assert answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, answer
    return retry_of(answer) > 0


def retry_of(error: grpc.aio.AioRpcError) -> float:
    status: Any = rpc_status.from_call(error)
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "THROTTLED"
    assert status.details[1].Unpack(retry)
    return float(retry.retry_delay.ToMilliseconds() / 1_000)


def throttled_by(error: grpc.aio.AioRpcError) -> str:
    status: Any = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.metadata["by"]


def counted(service: Service) -> dict[str, float]:
    """What the workers have counted, by name and label."""
    address = f"http://{service.settings.host}:{service.settings.server_metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=20) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    assert {name for sample in samples for name in sample.labels} <= {"by"}
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}


def store_ms(service: Service) -> int:
    seconds, micros = next(iter(service.valkeys())).time()
    return int(seconds) * 1_000 + int(micros) // 1_000


async def gathered(calls: Sequence[Callable[[], Awaitable[Any]]], at_once: int) -> list[Any]:
    """Makes the calls, so many at a time."""
    slots = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        async with slots:
            return await call()

    return await asyncio.gather(*map(one, calls))


# -- how many ----------------------------------------------------------------------------------------------------------


async def test_ten_thousand_guesses_of_rotating_customers_get_no_further_than_their_principal_may(
    guarded: Service,
) -> None:
    settings = guarded.settings
    storefront, checkout = await a_key(guarded, Role.STOREFRONT), await a_key(guarded, Role.CHECKOUT)
    async with guarded.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    before, begin_ms = await asyncio.to_thread(counted, guarded), store_ms(guarded)
    async with Caller(guarded, storefront) as guesser, Caller(guarded, checkout) as shop:

        async def shopping() -> list[Any]:
            return [await shop.redeem(code, fresh("c"), "192.0.2.1") for _ in range(100)]

        def guess(number: int) -> Callable[[], Awaitable[Any]]:
            return lambda: guesser.validate(f"GUESS-{number}", f"c-{number}", f"10.0.{number // 250}.{number % 250}")

        answers, bought = await asyncio.gather(gathered([*map(guess, range(10_000))], 200), shopping())
    elapsed_ms = store_ms(guarded) - begin_ms
    after = await asyncio.to_thread(counted, guarded)

    told = [answer for answer in answers if not is_throttled(answer)]
    may_be_told = settings.guess_principal_burst + elapsed_ms // settings.guess_principal_interval_ms
    assert settings.guess_principal_burst <= len(told) <= may_be_told
    assert {answer.refusal.reason for answer in told} == {RefusalReason.REFUSAL_REASON_CODE_NOT_USABLE}
    # What no answer tells, the look-up itself, is bounded as well: in each worker by the same rate.
    looked_up = after["vouchsafe_failed_codes_total"] - before["vouchsafe_failed_codes_total"]
    assert len(told) <= looked_up <= WORKERS * (may_be_told + 1)
    refused = "vouchsafe_throttled_total principal"
    assert after[refused] - before.get(refused, 0) == 10_000 - len(told)
    # The shop beside it has sold to everybody.
    assert [type(answer.redemption) for answer in bought if answer.WhichOneof("outcome") == "redemption"] == [
        Redemption
    ] * 100


async def test_who_guesses_through_a_shop_hides_the_answers_and_closes_it_to_nobody(guarded: Service) -> None:
    settings = guarded.settings
    async with guarded.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    begin_ms = store_ms(guarded)
    async with Caller(guarded, await a_key(guarded, Role.CHECKOUT)) as shop:

        def guess(number: int) -> Callable[[], Awaitable[Any]]:
            return lambda: shop.redeem(f"GUESS-{number}", f"c-{number}")

        async def shopping() -> list[Any]:
            return [await shop.redeem(code, fresh("shopper")) for _ in range(100)]

        answers, bought = await asyncio.gather(gathered([*map(guess, range(3_000))], 100), shopping())
    elapsed_ms = store_ms(guarded) - begin_ms
    told = [answer for answer in answers if not is_throttled(answer)]
    assert {throttled_by(answer) for answer in answers if is_throttled(answer)} <= {"principal"}
    assert len(told) <= settings.guess_principal_burst + elapsed_ms // settings.guess_principal_interval_ms
    assert {answer.refusal.reason for answer in told} == {RefusalReason.REFUSAL_REASON_CODE_UNKNOWN}
    assert all(answer.WhichOneof("outcome") == "redemption" for answer in bought)


@pytest.mark.parametrize("role", [Role.STOREFRONT, Role.CHECKOUT])
async def test_a_code_among_a_thousand_guesses_at_once_is_not_found(guarded: Service, role: Role) -> None:
    """All of them start before anything has failed."""
    settings = guarded.settings
    async with guarded.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    before = await asyncio.to_thread(counted, guarded)
    async with Caller(guarded, await a_key(guarded, role)) as guesser:
        begin_ms = store_ms(guarded)
        codes = [f"GUESS-{number}" for number in range(1_000)]
        # Behind as many as the workers let through at first.
        codes.insert(500, code)
        answers = await asyncio.gather(*(guesser.validate(one, "c", "192.0.2.7") for one in codes))
        elapsed_ms = store_ms(guarded) - begin_ms
        looked_up = (await asyncio.to_thread(counted, guarded))["vouchsafe_failed_codes_total"]
        looked_up -= before["vouchsafe_failed_codes_total"]
        may_be_told = settings.guess_customer_burst + elapsed_ms // settings.guess_customer_interval_ms
        assert sum(not is_throttled(answer) for answer in answers) <= may_be_told
        assert looked_up <= WORKERS * may_be_told
        assert is_throttled(answers[500])
        # Nor later, while the bucket is empty, by whichever worker.
        later = [await guesser.redeem(code, "c", "192.0.2.7") for _ in range(40)]
        assert all(map(is_throttled, later))
        assert {throttled_by(answer) for answer in later} == {"customer"}
        # Another customer from there may, until the source has failed too often as well.
        assert (await guesser.redeem(code, "another", "192.0.2.7")).redemption.id


async def test_a_source_is_slowed_whoever_its_customers_are(guarded: Service) -> None:
    async with guarded.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    async with Caller(guarded, await a_key(guarded, Role.CHECKOUT)) as shop:
        for number in range(200):
            # A household has 2^64 addresses.
            if is_throttled(answer := await shop.validate("GUESS", f"c-{number}", f"2001:db8:1:2::{number:x}")):
                break
        assert throttled_by(answer) == "source"
        for number in range(20):
            assert is_throttled(await shop.redeem(code, f"d-{number}", f"2001:db8:1:2:ffff::{number:x}"))
        assert (await shop.redeem(code, "d-0", "2001:db8:1:3::1")).redemption.id


async def test_a_storefronts_connection_is_the_source_that_it_does_not_tell(guarded: Service) -> None:
    async with (
        Caller(guarded, await a_key(guarded, Role.STOREFRONT)) as storefront,
        Caller(guarded, await a_key(guarded, Role.CHECKOUT)) as shop,
    ):
        burst = guarded.settings.guess_source_burst
        answers = [await storefront.validate("GUESS", f"c-{number}") for number in range(3 * burst)]
        assert throttled_by(answers[-1]) == "source"
        answers = [await shop.validate("GUESS", f"c-{number}") for number in range(3 * burst)]
        assert not any(map(is_throttled, answers))


async def test_buckets_outlive_the_servers_that_filled_them(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as admin:
        _, code = await a_campaign(admin)
    key = await a_key(own_service, Role.CHECKOUT)
    async with Caller(own_service, key) as shop:
        burst = own_service.settings.guess_customer_burst
        begin_ms = store_ms(own_service)
        answers = [await shop.validate("GUESS", "c") for _ in range(4 * burst)]
        told = sum(not is_throttled(answer) for answer in answers)
    own_service.kill("server", "valkey")
    async with own_service.client(timeout_s=60) as admin:
        assert isinstance(await admin.redeem(code, Customer(id="other"), an_order(fresh("o"))), Redemption)
    async with Caller(own_service, key) as shop:
        for _ in range(4 * burst):
            answer = await shop.validate("GUESS", "c")
            while isinstance(answer, grpc.aio.AioRpcError) and answer.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.UNAUTHENTICATED,
            ):
                await asyncio.sleep(0.1)
                answer = await shop.validate("GUESS", "c")
            told += not is_throttled(answer)
        elapsed_ms = store_ms(own_service) - begin_ms
        assert burst <= told <= burst + elapsed_ms // own_service.settings.guess_customer_interval_ms
        assert is_throttled(await shop.redeem(code, "c"))


async def test_the_client_says_when_to_come_back_and_does_not_try_meanwhile(guarded: Service) -> None:
    async with Client(guarded.target, api_key=await a_key(guarded, Role.CHECKOUT), timeout_s=60, channels=1) as shop:
        started = time.monotonic()

        async def guess() -> None:
            for _ in range(100):
                await shop.validate("GUESS", Customer(id="c"), an_order(fresh("o")))

        with pytest.raises(Throttled, match="codes of this customer were wrong; try again in") as caught:
            await guess()
        assert time.monotonic() - started < 30
    assert 0 < caught.value.retry_after_s <= 10


# -- what they are told ------------------------------------------------------------------------------------------------


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


# -- what fails --------------------------------------------------------------------------------------------------------


async def test_a_guess_that_cannot_be_counted_is_not_answered(settings: Settings) -> None:
    gate = await Gate.connect(settings, 16)
    checkout = Checkout(gate, settings)
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=5_000)
    try:
        await open_all(gate)
        await gate.publish(Campaign("sale", 1, a_definition(), 0))
        await enter(gate, CodeEntry("SALE", "sale", None))
        redeem = Redeem(
            checkout, ledger, a_backlog(gate, settings), Committed(ledger, settings), hold_ms=5_000, secret=""
        )
        guessing = Guessing(checkout, redeem.validate, settings)

        async def ask(code: str, asker: Asker) -> Any:
            name = fresh("x")
            request = RedeemRequest(
                name, "0" * 32, (code,), DomainCustomer(id=name), structs.replace(AN_ORDER, id=name), DomainCombining()
            )
            return (await guessing.ask(asker, request, lambda: redeem.redeem(request))).outcome

        # A principal whose bucket lies apart from all that a redemption and a look-up need.
        used = {gate.partition_of(name) for name in ("SALE", "sale", "GUESS")}
        names = (f"key:{number}" for number in itertools.count())
        asker, home = next(
            (Asker(Principal(name, frozenset([Role.CHECKOUT])), ""), home)
            for name in names
            if (home := gate.partition_of(guessing._hash(Bucket(Kind.PRINCIPAL, name)))) not in used
        )
        assert isinstance(await ask("GUESS", asker), Refusal)
        gate.close_partition(home)
        with pytest.raises(Unavailable):
            await ask("GUESS", asker)
        # Nor is anybody kept from buying by that, but for those whose request id lies there.
        outcomes = await asyncio.gather(*(ask("SALE", asker) for _ in range(50)), return_exceptions=True)
        assert sum(isinstance(outcome, DomainRedemption) for outcome in outcomes) > 25
        assert all(isinstance(outcome, DomainRedemption | Unavailable) for outcome in outcomes)
    finally:
        await ledger.close()
        await checkout.close()
        await gate.close()


async def test_wrong_credentials_are_counted_and_slowed_and_good_ones_let_in(guarded: Service) -> None:
    before = (await asyncio.to_thread(counted, guarded)).get("vouchsafe_failed_credentials_total", 0)
    async with (
        Caller(guarded, "vs_000000000000_wrong") as stranger,
        guarded.client(timeout_s=30, channels=12) as admin,
    ):
        answers = await gathered([lambda: stranger.validate("GUESS", "c")] * 2_500, 50)
        codes = [answer.code() for answer in answers]
        assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert throttled_by(answers[-1]) == "address"
        for _ in range(24):
            assert isinstance(await admin.redeem(fresh("X"), Customer(id=fresh("c")), an_order(fresh("o"))), Refused)
    after = (await asyncio.to_thread(counted, guarded))["vouchsafe_failed_credentials_total"]
    assert after - before == 2_500
