"""What shops and operators send, for locust. `make load` runs scenarios of it on a service of their own.

A refusal is an answer; a call fails when it ends with an error, or with another answer than its code can give.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import grpc
import grpc.experimental.gevent
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from locust import User, between, constant, task

from benchmarks.message import FLASH, GOOD, OPERATED, PAUSED, UNKNOWN, redeem_request
from vouchsafe.client import RefusalReason
from vouchsafe.v1 import campaign_service_pb2 as campaigns
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceStub
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

# Locust has put gevent under the standard library by now; gRPC has to know before its first channel is made.
grpc.experimental.gevent.init_gevent()

TIMEOUT_S = 5
KEY = os.environ["VOUCHSAFE_API_KEY"]
METADATA = (("authorization", f"Bearer {KEY}"),)
REDEEMED = "REDEEMED"
# Who is refused in overload, or dropped: neither is a failure while they come back in time.
TOO_MANY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
TRIES = 20

_numbers = itertools.count()


class Failed(Exception):
    """A call that ended with an error or a wrong answer; locust counts those of the same text together."""


@cache
def channel(host: str) -> grpc.Channel:
    """One for all users of this process, as in a checkout."""
    return grpc.insecure_channel(host, options=(("grpc.enable_retries", 0),))


class Caller(User):
    """Calls, and tells locust what came of it."""

    abstract = True

    def tell(self, kind: str, name: str, call: Callable[[], Any]) -> Any:
        """Makes a call that may raise Failed and RpcError; answers what it answers, None when it failed."""
        failure: Exception | None = None
        response: Any = None
        started = time.perf_counter()
        try:
            response = call()
        except Failed as failed:
            failure = failed
        except grpc.RpcError as error:
            failure = Failed(f"{error.code().name}: {error.details()}")
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=(time.perf_counter() - started) * 1000,
            response_length=response.ByteSize() if response is not None else 0,
            exception=failure,
            context={},
        )
        return response

    def redeem(self, code: str, *expected: str) -> None:
        """Redeems on a new order; the answer has to be one of those expected."""
        request = redeem_request(code, next(_numbers))
        self.tell("redeem", code, lambda: self._redeemed(request, *expected))

    def _redeemed(self, request: Any, *expected: str) -> Any:
        stub = RedemptionServiceStub(channel(self.host or ""))
        response = stub.ValidateAndRedeem(request, timeout=TIMEOUT_S, metadata=METADATA)
        refusal = RefusalReason.Name(response.refusal.reason).removeprefix("REFUSAL_REASON_")
        answer = REDEEMED if response.HasField("redemption") else refusal
        if answer not in expected:
            raise Failed(f"answered {answer}")
        return response


class FlashSale(Caller):
    """Wants one of a few vouchers and comes again: most are too late."""

    weight = 1
    wait_time = between(0, 0.2)

    @task
    def first_come_first_served(self) -> None:
        """Served while there are any."""
        self.redeem(FLASH, REDEEMED, "CAMPAIGN_LIMIT_REACHED")


class SteadyTrade(Caller):
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


class RetryStorm(Caller):
    """Too many who want one of a few vouchers, and who come back when they are told to, with chance in it."""

    wait_time = constant(0)

    @task
    def again_and_again(self) -> None:
        """One order, however often it takes; the same request each time."""
        request = redeem_request(FLASH, next(_numbers))
        self.tell("redeem", f"{FLASH}, with all tries", lambda: self._insistently(request))

    def _insistently(self, request: Any) -> Any:
        for number in range(TRIES):
            try:
                return self._redeemed(request, REDEEMED, "CAMPAIGN_LIMIT_REACHED")
            except grpc.RpcError as error:
                if error.code() not in TOO_MANY:
                    raise
                self.environment.events.request.fire(
                    request_type="told to come back", name=error.code().name, response_time=0, response_length=0,
                    exception=None, context={},
                )  # fmt: skip
                pause_s = min(max(_retry_s(error), 0.05 * 2**number), 1)
                time.sleep(pause_s * random.uniform(1, 2))  # noqa: S311  # so that not all come back at once
        raise Failed(f"told to come back {TRIES} times")


class Operator(Caller):
    """Looks after campaigns while others sell."""

    fixed_count = 2
    wait_time = between(0.2, 0.5)

    @task(2)
    def pause_and_resume(self) -> None:
        """A campaign that nobody buys from: every redemption of the others has to succeed."""
        pause = campaigns.PauseCampaignRequest(campaign_id=OPERATED, reason="to measure")
        resume = campaigns.ResumeCampaignRequest(campaign_id=OPERATED)
        self.operate("PauseCampaign", pause)
        self.operate("ResumeCampaign", resume)

    @task(3)
    def look(self) -> None:
        """What there is, and how it goes."""
        self.operate("ListCampaigns", campaigns.ListCampaignsRequest())
        self.operate("GetCampaignStats", campaigns.GetCampaignStatsRequest(campaign_id=GOOD.lower()))

    def operate(self, method: str, request: Any) -> None:
        """Calls a method of CampaignService."""
        stub = CampaignServiceStub(channel(self.host or ""))
        self.tell("operate", method, lambda: getattr(stub, method)(request, timeout=TIMEOUT_S, metadata=METADATA))


def _retry_s(error: grpc.RpcError) -> float:
    """When to come back; who is dropped is not told."""
    retry = RetryInfo()
    status = rpc_status.from_call(error)
    if status is not None and any(detail.Unpack(retry) for detail in status.details):
        return retry.retry_delay.ToMilliseconds() / 1_000
    return 0.25
