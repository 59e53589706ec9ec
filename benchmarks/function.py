"""The limit that Valkey sets: the `redeem` function alone, called in full batches without a server in between."""

from __future__ import annotations

import itertools
import socket
import time
from dataclasses import dataclass

import hiredis
import psutil

from benchmarks.message import BATCH, LIMITS, RUN
from benchmarks.processes import cpu_s
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.effects import Effect, PercentOff
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Discount
from vouchsafe.domain.redemption import Claim
from vouchsafe.domain.takes import Taker
from vouchsafe.embedded import HOST
from vouchsafe.gate.attempts import Attempt
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.settings import Settings

# Batches under way: enough that Valkey never waits for this process.
WINDOW = 4
TIMEOUT_S = 5
ORDER = Order(
    id="order",
    currency_code="EUR",
    metadata={"store": "1"},
    lines=(Line(sku="sku", quantity=1, unit_price_minor=11_460),),
)
EFFECTS = (Effect(kind=PercentOff(basis_points=1_000)),)


@dataclass(frozen=True, slots=True)
class FunctionRound:
    """One run of the function. `valkey_us` is CPU microseconds of Valkey for an item."""

    items_per_s: float
    valkey_us: float


async def commands(settings: Settings, count: int, limits: Limits = LIMITS, name: str = "function") -> list[bytes]:
    """That many calls of `redeem`, each with 64 new requests, as the very bytes that a server would send.

    The requests are of a campaign of that name with those limits; names of two runs differ. They go to a partition of
    their own, beyond those of the installation, which no persister follows; their ids are claimed in all of them.
    """
    partition = settings.partitions
    gate = await Gate.connect(settings, partition + 1)
    checkout = Checkout(gate, settings)
    try:
        *others, seen = await gate.inspect()
        assert seen is not None
        await gate.open_partition(seen, "benchmark", 1, [], {})
        gate.use_partition(partition, "benchmark", epoch=1)
        for other in others:
            assert other is not None
            gate.use_partition(other.partition, other.installation, other.epoch)
        names = map(f"{name}-{{}}".format, itertools.count())
        campaign = next(name for name in names if gate.partition_of(name) == partition)
        await gate.publish(
            Campaign(campaign, 1, Definition(display_name="Function", effects=EFFECTS, limits=limits), 0)
        )
        # The encoder is private to the checkout, but a copy of it here would drift.
        encode = checkout._redeem.encode
        numbers = itertools.count()
        taker = Taker(limits, "UTC", b"benchmark")
        batches = ([_attempt(campaign, taker, next(numbers)) for _ in range(BATCH)] for _ in range(count))
        return [
            hiredis.pack_command(tuple(encode(partition, batch)))  # type: ignore[arg-type]  # typed as a tuple of one
            for batch in batches
        ]
    finally:
        await checkout.close()
        await gate.close()


def run(calls: list[bytes], valkey: psutil.Process, port: int) -> FunctionRound:
    """Sends the calls, a few at a time. Raises Unavailable unless every item was redeemed."""
    reader = hiredis.Reader()
    left = iter(calls)
    answered = 0
    cpu = cpu_s(valkey)
    started = time.perf_counter()
    with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"".join(itertools.islice(left, WINDOW)))
        while answered < len(calls):
            received = connection.recv(1 << 16)
            if not received:
                raise Unavailable("Valkey has closed the connection")
            reader.feed(received)
            while (reply := reader.gets()) is not False:
                if not isinstance(reply, list) or not all(answer.startswith(b"R ") for answer in reply):
                    raise Unavailable(f"the function did not redeem: {reply!r}")
                answered += 1
                connection.sendall(next(left, b""))
    items = len(calls) * BATCH
    return FunctionRound(items / (time.perf_counter() - started), (cpu_s(valkey) - cpu) / items * 1e6)


def _attempt(campaign: str, taker: Taker, number: int) -> Attempt:
    claim = Claim(
        request_id=f"{campaign}-{RUN}-{number:09}",
        fingerprint=f"{number:032x}",
        campaign_id=campaign,
        campaign_version=1,
        code="FUNCTION",
        customer_id=f"customer-{RUN}-{number:09}",
        order_id=f"order-{RUN}-{number:09}",
        currency_code="EUR",
        order_amount_minor=11_460,
        discount=Discount(1_097, 1_097),
    )
    entry = CodeEntry("FUNCTION", campaign, None)
    return Attempt(
        claim, taker.takes(Customer(id=claim.customer_id, card_fingerprint=claim.customer_id), ORDER, entry, 1_097, 0)
    )
