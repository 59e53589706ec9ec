"""Where the time of an item goes in a worker, stage by stage: `python -m benchmarks.stages [--publish]`.

Only what a worker does by itself for one item, each stage as often as it takes to meet the processor undisturbed. What
it takes to carry items there and back (gRPC, tasks, lanes, Valkey) is what `make bench` shows beyond that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console

from benchmarks.message import BATCH, DEFINITION, redeem_request
from benchmarks.pages import PAGE, replaced, table_of
from vouchsafe.domain.best_deal import combine
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.combine import Candidate
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.edge import convert
from vouchsafe.edge.message_rules import MessageRules
from vouchsafe.gate.attempts import decode_for
from vouchsafe.service.combined import Answer
from vouchsafe.service.redeem import Redeem
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemRequest, ValidateAndRedeemResponse

ROUNDS = 300
NOW_MS = 1_780_000_000_000
CODE = "BENCH"
PARTITION = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stages:
    """The stages so far, and microseconds for an item of each: the least of many rounds."""

    def __init__(self) -> None:
        self.us: dict[str, float] = {}

    def run(self, stage: str, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Does the work on each item, again and again; answers what came of it."""
        least_s, results = float("inf"), []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            results = [work(item) for item in items]
            least_s = min(least_s, time.perf_counter() - started)
        self.us[stage] = least_s / len(items) * 1e6
        return results


def measure() -> dict[str, float]:
    """Microseconds of each stage, in the order in which an item passes them."""
    stages, rules = Stages(), MessageRules()
    evaluator = Evaluator(Campaign("bench", 1, DEFINITION, 0), b"benchmark")
    candidate = Candidate(CodeEntry(CODE, "bench", None), evaluator)
    # What follows from a request needs nothing of what redeeming it does. It is private, but a copy of it would drift.
    attempt_of = Redeem.__new__(Redeem)._attempt

    data = [redeem_request(CODE, number).SerializeToString() for number in range(BATCH)]
    messages = stages.run("read the message", ValidateAndRedeemRequest.FromString, data)
    stages.run("check its rules", lambda message: rules.check(message, 400), messages)
    requests = stages.run("make values of it, and its fingerprint", convert.redeem_request, messages)
    combinations = stages.run(
        "judge: five conditions, a percentage on lines",
        lambda one: combine(one.customer, one.order, [candidate], NOW_MS, one.combining),
        requests,
    )
    if not all(one.applied for one in combinations):
        raise ValueError(f"nothing to measure: {combinations[0]}")
    attempts = stages.run(
        "put together what Valkey shall record and count",
        lambda pair: attempt_of(pair[0], candidate, pair[1]),
        list(zip(requests, combinations, strict=True)),
    )
    answers = [b"R 1-%d-0 %d %d" % (NOW_MS + at, NOW_MS, one.digest) for at, one in enumerate(attempts)]
    redemptions = stages.run(
        "read Valkey's answer",
        lambda pair: decode_for(pair[0], PARTITION, pair[1], lambda _: None, claimed=True),
        list(zip(attempts, answers, strict=True)),
    )
    responses = stages.run("fill the response", _response, redemptions)
    stages.run("write it", ValidateAndRedeemResponse.SerializeToString, responses)
    return stages.us


def _response(redemption: object) -> ValidateAndRedeemResponse:
    response = ValidateAndRedeemResponse()
    convert.fill_answer(response, Answer(redemption))  # type: ignore[arg-type]  # a redemption, as all are redeemed
    return response


def main() -> None:
    """Prints the table, and with --publish puts it on the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    found = measure()
    whole = sum(found.values())
    rows = [(stage, f"{us:.1f}", f"{us / whole:.0%}") for stage, us in found.items()]
    text = table_of(("stage", "µs", "share"), [*rows, ("all of it", f"{whole:.1f}", "100%")], texts=1)
    Console(soft_wrap=True, highlight=False).print(text)
    if options.publish:
        PAGE.write_text(replaced(PAGE.read_text(), "stages", text))


if __name__ == "__main__":
    main()
