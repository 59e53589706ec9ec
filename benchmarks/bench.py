"""`make bench`: the service beside an empty gRPC server and beside the bare function of its gate.

Everything runs on this machine, so a number alone says more about the machine than about the service: what counts is
each number's ratio to its yardstick, measured in turn in the same minute.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from rich.console import Console

from benchmarks import function, report
from benchmarks.generator import Order, Round
from benchmarks.message import redeem_request
from benchmarks.processes import (
    ROOT,
    cpu_of_all_s,
    cpu_s,
    disk_sync_ms,
    echo_server,
    listener,
    load_generator,
    stop_on_signals,
    wait_while,
)
from benchmarks.report import OPEN_LOOP_SHARE, Results, Spent
from vouchsafe.client import CampaignDefinition, Effect, Limits, PercentOff, Redemption
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.embedded import HOST
from vouchsafe.gate.gate import Gate
from vouchsafe.local import LocalService
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemResponse

CODE = "BENCH"
AT_ONCE = 64
SETTLE_WAIT_S = 30.0
REDEEMED = "0a"  # how a response with a redemption begins


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run takes."""

    rounds: int
    seconds: float
    warm_up_s: float
    function_calls: int


USUAL = Plan(rounds=5, seconds=2.5, warm_up_s=1.5, function_calls=150)
QUICK = Plan(rounds=2, seconds=1.2, warm_up_s=0.8, function_calls=75)


class Bench:
    """Rounds in turn: service, yardstick, service, yardstick."""

    def __init__(self, service: LocalService, echo_port: int, generate: Callable[[Order], Round]) -> None:
        self._service = service
        self._generate = generate
        self._echo_target = f"{HOST}:{echo_port}"
        self._echo = listener(echo_port)
        self._worker = listener(service.settings.port)
        self._valkey_port = urlsplit(service.settings.valkey_url).port or 0
        self._valkey = listener(self._valkey_port)

    def run(self, plan: Plan, say: Callable[[str], None]) -> Results:
        """Everything that is measured."""
        results = Results()
        calls = asyncio.run(function.commands(self._service.settings, plan.rounds * plan.function_calls))
        say("warming up")
        self._pair(plan.warm_up_s, at_once=AT_ONCE)

        for number in range(plan.rounds):
            say(f"as many calls as it takes, round {number + 1} of {plan.rounds}")
            rounds, spent = self._pair(plan.seconds, at_once=AT_ONCE)
            results.peak.append(rounds)
            results.spent.append(spent)

        results.open_rate = OPEN_LOOP_SHARE * report.median(report.calls_per_s(ours) for ours, _ in results.peak)
        for number in range(plan.rounds):
            say(f"{results.open_rate:,.0f} calls a second, round {number + 1} of {plan.rounds}")
            rounds, _ = self._pair(plan.seconds, rate=results.open_rate)
            results.open_loop.append(rounds)

        for number in range(plan.rounds):
            say(f"the bare function, round {number + 1} of {plan.rounds}")
            first = number * plan.function_calls
            batch = calls[first : first + plan.function_calls]
            results.function.append(function.run(batch, self._valkey, self._valkey_port))
        return results

    def _pair(
        self, seconds: float, *, at_once: int = 0, rate: float = 0
    ) -> tuple[tuple[Round, Round], tuple[Spent, Spent]]:
        ours, our_cost = self._one(self._service.target, self._worker, seconds, at_once, rate)
        if ours.outcomes != {REDEEMED: ours.calls}:
            raise VouchsafeError(f"not every call redeemed, so the round says nothing: {ours.outcomes}")
        self._service.check()
        echo, echo_cost = self._one(self._echo_target, self._echo, seconds, at_once, rate)
        return (ours, echo), (our_cost, echo_cost)

    def _one(
        self, target: str, server: psutil.Process, seconds: float, at_once: int, rate: float
    ) -> tuple[Round, Spent]:
        before = self._cpu(server)
        done = self._generate(Order(target, self._service.api_key, CODE, seconds, at_once, rate))
        wait_while(lambda: asyncio.run(self._waiting_events()) > 0, SETTLE_WAIT_S)
        server_s, valkey_s, all_s = (now - then for now, then in zip(self._cpu(server), before, strict=True))
        scale = 1e6 / done.calls
        others_s = all_s - server_s - valkey_s - done.cpu_s
        return done, Spent(server_s * scale, valkey_s * scale, others_s * scale)

    def _cpu(self, server: psutil.Process) -> tuple[float, float, float]:
        return cpu_s(server), cpu_s(self._valkey), cpu_of_all_s()

    async def _waiting_events(self) -> int:
        gate = await Gate.connect(self._service.settings, self._service.settings.partitions)
        try:
            return await gate.waiting_events()
        finally:
            await gate.close()


async def prepare(service: LocalService) -> int:
    """Creates a campaign whose limits are all counted and never reached; answers the bytes of a response."""
    definition = CampaignDefinition(
        display_name="Benchmark",
        effects=[Effect(percent_off=PercentOff(basis_points=1_000))],
        limits=Limits(total=10**9, per_customer=1),
    )
    request = redeem_request(CODE, 0)
    async with service.client(channels=1) as client:
        await client.create_campaign("bench", definition, shared_codes=[CODE])
        outcome = await client.redeem(CODE, request.customer, request.order, request_id=request.request_id)
    assert isinstance(outcome, Redemption)
    return ValidateAndRedeemResponse(redemption=outcome).ByteSize()


def main() -> None:
    """Measures, prints, and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 20 s instead of about 70 s, and less steady")
    plan = QUICK if parser.parse_args().quick else USUAL

    stop_on_signals()
    console = Console(highlight=False)
    started = time.monotonic()
    load_before = psutil.getloadavg()[0]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vouchsafe-bench-") as directory,
            console.status("starting ...") as status,
        ):

            def say(text: str) -> None:
                status.update(text)
                if not console.is_terminal:
                    console.print(f"{time.monotonic() - started:5.1f} s  {text}")

            sync_ms = disk_sync_ms(Path(directory))
            say("starting Valkey, PostgreSQL, persister and a server with one worker")
            with LocalService(Path(directory), workers=1) as service:
                response_bytes = asyncio.run(prepare(service))
                with echo_server(response_bytes) as echo_port, load_generator() as generate:
                    results = Bench(service, echo_port, generate).run(plan, say)
    except VouchsafeError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: stopped")

    seconds = time.monotonic() - started
    report.write(results, seconds, load_before=load_before, disk_sync_ms=sync_ms)
    console.print(report.table(results))
    for remark in report.remarks(results, load_before):
        console.print(remark)
    console.print(f"{seconds:.0f} s; the figures are in {report.RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
