"""docs/flash-sale.md as it stands there, command by command, while shoppers buy: exit statuses, what is printed, and in
the end the figures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.pages import Example, examples, missing
from tests.service import Service, an_order, settle
from vouchsafe.client import AuditEventFilter, Client, Customer, Redemption

ROOT = Path(__file__).parents[2]
SHOPPERS = 4
# A moment between two purchases of a shopper, so that the commands get their share of this machine.
PAUSE_S = 0.3
ACTIONS = [
    "campaign.create",
    "campaign.schedule",
    "codes.generate",
    "codes.export",
    "campaign.update",
    "campaign.update",
    "campaign.pause",
    "campaign.resume",
    "code.disable",
    "kill_switch.engage",
    "kill_switch.release",
    "kill_switch.engage",
    "kill_switch.release",
    "campaign.pause",
    "campaign.archive",
]


@contextlib.asynccontextmanager
async def shoppers(client: Client) -> AsyncIterator[list[str]]:
    """Buy until the block is left; the ids of what they were told that they have."""
    redeemed: list[str] = []
    over = asyncio.Event()

    async def shop(shopper: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            id_ = f"shopper-{shopper}-{number}"
            outcome = await client.redeem("FLASH20", Customer(id=id_), an_order(id_))
            if isinstance(outcome, Redemption):
                redeemed.append(outcome.id)
            await asyncio.sleep(PAUSE_S)

    tasks = [asyncio.create_task(shop(shopper)) for shopper in range(SHOPPERS)]
    try:
        yield redeemed
    finally:
        over.set()
        await asyncio.gather(*tasks)


def run(example: Example, directory: Path, environment: dict[str, str]) -> None:
    ran = subprocess.run(
        ["bash", "-c", example.command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = f"$ {example.command}\n{ran.stdout}{ran.stderr}"
    assert ran.returncode == example.status, told
    assert missing(example.shown, ran.stdout) is None, f"not shown: {missing(example.shown, ran.stdout)}\n{told}"


@pytest.mark.timeout(
    300
)  # some thirty commands, each a process: half a minute of a machine that has nothing else to do
async def test_the_runbook_of_a_flash_sale_is_right(own_service: Service, tmp_path: Path) -> None:
    settings = own_service.settings
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VOUCHSAFE_PORT": f"{settings.port}",
        "VOUCHSAFE_API_KEY": own_service.api_key,
        "VOUCHSAFE_POSTGRES_URL": settings.postgres_url,
        "VOUCHSAFE_VALKEY_URL": settings.valkey_url,
    }
    steps = examples((ROOT / "docs/flash-sale.md").read_text())
    assert len(steps) > 25
    async with own_service.client(timeout_s=30) as client:
        async with shoppers(client) as redeemed:
            for step in steps:
                if step.command.startswith("vouchsafe audit"):  # the persister may be a moment behind what was done
                    await settle(settings)
                await asyncio.to_thread(run, step, tmp_path, environment)
        figures = json.loads((tmp_path / "figures.json").read_text())
        # What the page itself redeems comes on top.
        own = sum(step.shown.startswith("redeemed:") for step in steps)
        assert len(set(redeemed)) == len(redeemed) > 0
        assert int(figures["gate"]["redeemed_count"]) == len(redeemed) + own
        noted = [one async for one in client.list_audit_events(AuditEventFilter(principal="key:dev"))]
    # What was done in several partitions may be noted in another order than it was done.
    noted.sort(key=lambda one: one.action_time.ToMilliseconds())
    assert [one.action for one in noted] == ACTIONS


@pytest.mark.parametrize(
    ("shown", "output", "lacks"),
    [
        ("a … d\n…\nz", "a  b c   d\nx\nz\n", None),
        ("a … d", "a d\n", None),
        ("b\na", "a\nb\n", "a"),
        ("a …", "ba x\n", "a …"),
        ("", "anything\n", None),
    ],
)
def test_what_a_page_shows_is_looked_for_in_order(shown: str, output: str, lacks: str | None) -> None:
    assert missing(shown, output) == lacks
