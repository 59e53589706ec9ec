"""Whoever guesses codes: how many they are let through to, and who is not hurt by it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from msgspec import structs

from tests.guarded import (
    CONNECTIONS,
    NUMBERS,
    PATIENCE_MS,
    WORKERS,
    Caller,
    a_key,
    counted,
    fresh,
    gathered,
    is_throttled,
    retry_of,
    store_ms,
    throttled_by,
)
from tests.opened import enter, open_all
from tests.service import Service, a_backlog, a_campaign, an_order
from tests.values import AN_ORDER, a_definition
from vouchsafe.client import (
    Client,
    Customer,
    Redemption,
    RefusalReason,
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
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Redemption as DomainRedemption
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.committed import Committed
from vouchsafe.service.guessing import Asker, Guessing
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Redeem
from vouchsafe.settings import Settings


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOUCHSAFE_GATE_TIMEOUT_MS", PATIENCE_MS)


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

        async def emptied() -> float:
            """Guesses until no worker believes in a token; answers until when there is none at least."""
            none_before: list[float] = []
            while len(none_before) < CONNECTIONS:
                began = time.monotonic()
                # A household has 2^64 addresses.
                answer = await shop.validate("GUESS", fresh("c"), f"2001:db8:1:2::{next(NUMBERS):x}")
                if is_throttled(answer):
                    assert throttled_by(answer) == "source"
                    none_before.append(began + retry_of(answer))
                else:
                    none_before.clear()
            return min(none_before)

        asked = 0
        while asked < 20:
            none_before = await emptied()
            answer = await shop.redeem(code, fresh("d"), f"2001:db8:1:2:ffff::{next(NUMBERS):x}")
            # What was answered later may have found the next token.
            if time.monotonic() < none_before:
                assert is_throttled(answer)
                asked += 1
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


def is_away(answer: Any) -> bool:
    return isinstance(answer, grpc.aio.AioRpcError) and answer.code() is grpc.StatusCode.UNAVAILABLE


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
            while is_away(answer):
                await asyncio.sleep(0.1)
                answer = await shop.validate("GUESS", "c")
            told += not is_throttled(answer)
        elapsed_ms = store_ms(own_service) - begin_ms
        assert burst <= told <= burst + elapsed_ms // own_service.settings.guess_customer_interval_ms
        assert is_throttled(await shop.redeem(code, "c"))


async def test_the_client_says_when_to_come_back_and_does_not_try_meanwhile(guarded: Service) -> None:
    key = await a_key(guarded, Role.CHECKOUT)
    async with Caller(guarded, key):
        pass
    async with Client(guarded.target, api_key=key, timeout_s=60, channels=1) as shop:
        started = time.monotonic()

        async def guess() -> None:
            for _ in range(100):
                await shop.validate("GUESS", Customer(id="c"), an_order(fresh("o")))

        with pytest.raises(Throttled, match="codes of this customer were wrong; try again in") as caught:
            await guess()
        assert time.monotonic() - started < 30
    assert 0 < caught.value.retry_after_s <= 10


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
    stranger = Caller(guarded, "vs_000000000000_wrong")
    async with contextlib.aclosing(stranger), guarded.client(timeout_s=30, channels=12) as admin:
        answers = await gathered([lambda: stranger.validate("GUESS", "c")] * 2_500, 50)
        codes = [answer.code() for answer in answers]
        assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert throttled_by(answers[-1]) == "address"
        for _ in range(24):
            assert isinstance(await admin.redeem(fresh("X"), Customer(id=fresh("c")), an_order(fresh("o"))), Refused)
    after = (await asyncio.to_thread(counted, guarded))["vouchsafe_failed_credentials_total"]
    assert after - before == 2_500
