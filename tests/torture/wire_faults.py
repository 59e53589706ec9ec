"""What goes wrong on the wires between the service and its stores."""

from __future__ import annotations

from tests.torture.chaos import Chaos, Fault, Run


def _swallow(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        for _ in range(chaos.dice.randrange(1, 6)):
            for wire in chaos.some_wires(store):
                wire.swallow_replies(0.6)
            await chaos.some_time(0.5)

    return run


def _tear(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        for _ in range(chaos.dice.randrange(1, 6)):
            for wire in chaos.some_wires(store):
                wire.tear_requests(0.6)
            await chaos.some_time(0.5)

    return run


def _cut(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        for _ in range(chaos.dice.randrange(1, 4)):
            share = chaos.dice.choice((0.3, 1))
            for wire in chaos.some_wires(store):
                wire.cut(share)
            await chaos.some_time(0.5)

    return run


def _delay(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        wires, delay_s = chaos.some_wires(store), chaos.dice.choice((0.02, 0.2, 1.5))
        for wire in wires:
            wire.delay_s = delay_s
        await chaos.some_time()
        for wire in wires:
            wire.delay_s = 0

    return run


def _hold(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        wires = chaos.some_wires(store)
        for wire in wires:
            wire.hold()
        await chaos.some_time()
        for wire in wires:
            wire.flow()

    return run


def wire_faults() -> list[Fault]:
    """Each for each store."""
    ways = {"swallow": _swallow, "tear": _tear, "cut": _cut, "delay": _delay, "hold": _hold}
    return [
        Fault(f"{name} {store}", frozenset({f"wire {store}"}), way(store))
        for name, way in ways.items()
        for store in ("valkey", "postgres")
    ]
