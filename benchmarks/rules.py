"""What judging a code costs beside serialising the request that asks for it: `python -m benchmarks.rules`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from vouchsafe.client import Customer as CustomerMessage
from vouchsafe.client import Order as OrderMessage
from vouchsafe.client import OrderLine
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.conditions import Amount, Condition, Countries, Lines, OrderNumber, Segments
from vouchsafe.domain.effects import BuyXGetY, Effect, PercentOff, Target, TargetKind
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.lines import LineSelector
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Basket, Discount

ROUNDS = 15
CALLS = 300
NOW_MS = 1_780_000_000_000
SHOES = LineSelector(categories=("shoes",))
CUSTOMER = Customer(id="customer-4711", segments=("new", "newsletter"), country_code="DE", order_count=0)
CODE = CodeEntry("WELCOME", "welcome", None)

TYPICAL = Definition(
    display_name="Ten percent off shoes",
    currency_code="EUR",
    effects=(Effect(kind=PercentOff(basis_points=1_000, target=Target(kind=TargetKind.EACH_LINE, lines=SHOES))),),
    conditions=(
        Condition(test=Segments(any=("new", "vip"))),
        Condition(test=Countries(any=("DE", "AT", "CH"))),
        Condition(test=OrderNumber(max=1)),
        Condition(test=Lines(lines=SHOES)),
        Condition(test=Amount(min_minor=5_000)),
    ),
)
BUY_2_GET_1 = Definition(
    display_name="Buy two, get one", effects=(Effect(kind=BuyXGetY(buy_quantity=2, get_quantity=1, buy=SHOES)),)
)


def an_order(lines: int) -> Order:
    """Lines of two units each, every other one of them shoes."""
    return Order(
        id="order-4711",
        currency_code="EUR",
        lines=tuple(
            Line(
                sku=f"sku-{number:05}",
                quantity=2,
                unit_price_minor=1_000 + 7 * number,
                product_id=f"product-{number // 2:05}",
                categories=("clothes", "shoes" if number % 2 else "shirts"),
            )
            for number in range(lines)
        ),
    )


def message_of(order: Order) -> OrderMessage:
    """The same order as it travels."""
    return OrderMessage(
        id=order.id,
        currency_code=order.currency_code,
        lines=[
            OrderLine(
                sku=line.sku,
                quantity=line.quantity,
                unit_price_minor=line.unit_price_minor,
                product_id=line.product_id,
                categories=line.categories,
            )
            for line in order.lines
        ],
    )


def measure(works: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds of CPU of each, the median over rounds in which all take their turn."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, times in zip(works, found, strict=True):
            started = time.process_time()
            for _ in range(CALLS):
                work()
            times.append((time.process_time() - started) / CALLS * 1e6)
    return [statistics.median(times) for times in found]


def judging(definition: Definition, order: Order) -> Callable[[], object]:
    """Judges the order anew, nothing about it kept from before."""
    evaluator = Evaluator(Campaign("welcome", 1, definition, 0))
    verdict = evaluator.evaluate(CUSTOMER, Basket(order), CODE, NOW_MS)
    if not isinstance(verdict.outcome, Discount):
        raise TypeError(f"nothing to measure: {verdict.outcome}")

    def judge() -> object:
        order.__dict__.clear()  # what an order works out about itself
        return evaluator.evaluate(CUSTOMER, Basket(order), CODE, NOW_MS)

    return judge


def main() -> int:
    """Prints the table. 1 when the cost of a line grows with the number of lines."""
    ten, hundred, two_hundred = an_order(10), an_order(100), an_order(200)
    customer = CustomerMessage(id=CUSTOMER.id, segments=CUSTOMER.segments, country_code="DE", order_count=0)
    messages = [message_of(order) for order in (ten, hundred)]
    works = {
        "serialise the request, 10 lines": lambda: (customer.SerializeToString(), messages[0].SerializeToString()),
        "build and serialise it, 10 lines": lambda: message_of(ten).SerializeToString(),
        "five conditions, percent on lines, 10 lines": judging(TYPICAL, ten),
        "serialise the request, 100 lines": lambda: (customer.SerializeToString(), messages[1].SerializeToString()),
        "buy 2 get 1, 100 lines": judging(BUY_2_GET_1, hundred),
        "buy 2 get 1, 200 lines": judging(BUY_2_GET_1, two_hundred),
    }
    times = dict(zip(works, measure(list(works.values())), strict=True))
    built = times["build and serialise it, 10 lines"]
    table = Table("work", "us of CPU", "beside building and serialising 10 lines", box=None)
    for name, us in times.items():
        table.add_row(name, f"{us:.1f}", f"{us / built:.2f}")
    growth = times["buy 2 get 1, 200 lines"] / times["buy 2 get 1, 100 lines"]
    table.add_row("twice the lines, buy 2 get 1", "", f"times {growth:.2f}")
    Console().print(table)
    return 0 if growth < 2.5 else 1


if __name__ == "__main__":
    sys.exit(main())
