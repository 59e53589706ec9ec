"""What the contracts of acknowledgement cost: `python -m benchmarks.contracts`.

One service for each of them, all at once on this machine, loaded in turn with unary calls; beside the one that answers
once Valkey has fsynced, how many calls the others answer and how long one takes.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from rich.console import Console

from benchmarks.generator import REDEEMED, Order, Round
from benchmarks.processes import load_generator, stop_on_signals
from benchmarks.report import calls_per_s
from benchmarks.service import CODE, Service
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.settings import Acknowledge

ROUNDS = 7
SECONDS = 2.0
WARM_UP_S = 1.0
# Few callers wait for each other's answers; with many there is always something to do meanwhile.
AT_ONCE = (16, 64)
YARDSTICK = "gate"


def main() -> None:
    """Prints the ratios."""
    stop_on_signals()
    console = Console(highlight=False)
    contracts: tuple[Acknowledge, ...] = get_args(Acknowledge)
    with tempfile.TemporaryDirectory(prefix="vouchsafe-contracts-") as directory, contextlib.ExitStack() as stack:
        services = {}
        for contract in contracts:
            os.environ["VOUCHSAFE_ACKNOWLEDGE"] = contract
            services[contract] = stack.enter_context(Service(Path(directory) / contract, workers=1))
            services[contract].create_campaign()
        generate = stack.enter_context(load_generator())
        for at_once in AT_ONCE:
            for service in services.values():
                _measure(service, generate, at_once, WARM_UP_S)
            done: dict[str, list[Round]] = {contract: [] for contract in contracts}
            for number in range(ROUNDS):
                for contract in contracts if number % 2 else reversed(contracts):
                    done[contract].append(_measure(services[contract], generate, at_once, SECONDS))
            for contract in contracts:
                pairs = list(zip(done[contract], done[YARDSTICK], strict=True))
                kept = statistics.median(calls_per_s(one) / calls_per_s(other) for one, other in pairs)
                longer = statistics.median(one.p50_ms / other.p50_ms for one, other in pairs)
                console.print(
                    f"{at_once:>4} at once, {contract:>7}: {kept:.2f} of the calls of {YARDSTICK}, "
                    f"each {longer:.1f} times as long (medians of {ROUNDS} pairs)",
                    soft_wrap=True,
                )


def _measure(service: Service, generate: Callable[[Order], Round], at_once: int, seconds: float) -> Round:
    done = generate(Order(service.target, service.api_key, [CODE], seconds, at_once))
    if done.outcomes != {REDEEMED: done.calls}:
        raise VouchsafeError(f"not every call redeemed, so the round says nothing: {done.outcomes}")
    # What one has left behind is not to be done in the time of the next.
    service.settle()
    return done


if __name__ == "__main__":
    main()
