"""What others grow slow by, counted in commands and not in seconds: how many campaigns and codes there are is nothing.

vendure 3075: one promotion made 300 ms of 6 s; craft 3202: 100,000 coupons made a call take 12 s; PrestaShop 14935:
10,000 rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.opened import open_all
from tests.valkeys import client_of
from tests.values import a_claim, a_definition, attempt_of
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.redemption import Redemption
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.settings import Settings

# None of them looks at more than it names, however large what it looks into is; zrange only at reservations whose time
# is over.
CONSTANT = {"exists", "get", "set", "hget", "hmget", "hset", "hexists", "xadd", "zrange", "time", "fcall", "info"}


@pytest.fixture
def server(settings: Settings) -> Iterator[redis.Redis]:
    with client_of(settings.valkey_url, Keys(0).meta, decode=True) as client:
        yield client


async def test_ten_thousand_campaigns_and_100_000_codes_cost_a_redemption_no_command(
    settings: Settings, server: redis.Redis
) -> None:
    gate = await Gate.connect(settings, 1)
    checkout = Checkout(gate, settings)
    try:
        await open_all(gate)
        await gate.publish(Campaign("sale", 1, a_definition(), 0))
        await Directory(gate).put([CodeEntry("A", "sale", None)])

        async def commands(number: int) -> dict[str, int]:
            """What looking the code up and redeeming it makes Valkey do."""
            before: Any = server.info("commandstats")
            assert await checkout.resolve("A") == CodeEntry("A", "sale", None)
            assert isinstance(await checkout.redeem(attempt_of(a_claim(number, "sale"))), Redemption)
            after: Any = server.info("commandstats")
            calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in after.items()}
            earlier = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in before.items()}
            return {name: count - earlier.get(name, 0) for name, count in calls.items() if count > earlier.get(name, 0)}

        await commands(0)  # loads the library
        alone = await commands(1)
        for number in range(10_000):
            await gate.publish(Campaign(f"other-{number}", 1, a_definition(), 0))
        for first in range(0, 100_000, 1_000):
            await Directory(gate).put([CodeEntry(f"OTHER-{first + n}", f"other-{n}", 1) for n in range(1_000)])
        assert await commands(2) == alone
        assert set(alone) <= CONSTANT
        assert sum(alone.values()) <= 20
    finally:
        await checkout.close()
        await gate.close()
