"""What shops send, for locust: a flash sale beside steady trade. `make load` runs it on a service of its own.

A refusal is an answer; a call fails when it ends with an error, or with another answer than its code can give.
"""

from __future__ import annotations

import itertools
import os
import time
from functools import cache

import grpc
import grpc.experimental.gevent
from locust import User, between, task

from benchmarks.message import FLASH, GOOD, PAUSED, UNKNOWN, redeem_request
from vouchsafe.client import RefusalReason
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

# Locust has put gevent under the standard library by now; gRPC has to know before its first channel is made.
grpc.experimental.gevent.init_gevent()

TIMEOUT_S = 5
KEY = os.environ["VOUCHSAFE_API_KEY"]
REDEEMED = "REDEEMED"

_numbers = itertools.count()


class Failed(Exception):
    """A call that ended with an error or a wrong answer; locust counts those of the same text together."""


@cache
def stub(host: str) -> RedemptionServiceStub:
    """One channel for all users of this process, as in a checkout."""
    return RedemptionServiceStub(grpc.insecure_channel(host))


class Shopper(User):
    """Calls, and tells locust what came of it."""

    abstract = True

    def redeem(self, code: str, *expected: str) -> None:
        """Redeems on a new order; the answer has to be one of those expected."""
        failure: Failed | None = None
        size = 0
        started = time.perf_counter()
        try:
            response = stub(self.host or "").ValidateAndRedeem(
                redeem_request(code, next(_numbers)),
                timeout=TIMEOUT_S,
                metadata=(("authorization", f"Bearer {KEY}"),),
            )
            size = response.ByteSize()
            refusal = RefusalReason.Name(response.refusal.reason).removeprefix("REFUSAL_REASON_")
            answer = REDEEMED if response.HasField("redemption") else refusal
            if answer not in expected:
                failure = Failed(f"answered {answer}")
        except grpc.RpcError as error:
            failure = Failed(f"{error.code().name}: {error.details()}")
        self.environment.events.request.fire(
            request_type="redeem",
            name=code,
            response_time=(time.perf_counter() - started) * 1000,
            response_length=size,
            exception=failure,
            context={},
        )


class FlashSale(Shopper):
    """Wants one of a few vouchers and comes again: most are too late."""

    weight = 1
    wait_time = between(0, 0.2)

    @task
    def first_come_first_served(self) -> None:
        """Served while there are any."""
        self.redeem(FLASH, REDEEMED, "CAMPAIGN_LIMIT_REACHED")


class SteadyTrade(Shopper):
    """A shop on an ordinary day: of 10 codes that are typed, 7 are good, 2 refused and 1 is a slip of the finger."""

    weight = 3
    wait_time = between(0.1, 0.5)

    @task(7)
    def good(self) -> None:
        """A code that works."""
        self.redeem(GOOD, REDEEMED)

    @task(2)
    def refused(self) -> None:
        """A code whose campaign is paused."""
        self.redeem(PAUSED, "CAMPAIGN_PAUSED")

    @task(1)
    def unknown(self) -> None:
        """A code that is nobody's."""
        self.redeem(UNKNOWN, "CODE_UNKNOWN")
