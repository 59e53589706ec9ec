"""A pause by hand at the moment of a planned resume: whoever comes first, the campaign is paused in the end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from tests.grpc.test_campaign_life import state_of
from tests.grpc.test_combined import create
from tests.grpc.test_pauses_by_hand import kinds_of, skipped_in_trail
from tests.grpc.test_planned_changes import PAUSE, RESUME, after, at, become, listed, states_of
from tests.service import Service, until
from vouchsafe.client import Client
from vouchsafe.service.planner import LEFT_ALONE

CAMPAIGNS = 24


async def test_a_pause_by_hand_at_the_moment_of_a_planned_resume_stands(client: Client, service: Service) -> None:
    codes = [await create(client) for _ in range(CAMPAIGNS)]
    due = after(3)
    for code in codes:
        await client.schedule_campaign(code, planned_changes=[at(after(0.1), PAUSE), at(due, RESUME)])
    for code in codes:
        await until(become(client, code, "APPLIED", "PLANNED"))

    async def pause(number: int) -> None:
        # Around the moment at which they are due, spread over a third of a second.
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + (number - 8) * 0.015)
        await client.pause_campaign(codes[number], "by hand")

    await asyncio.gather(*map(pause, range(CAMPAIGNS)))
    for code in codes:

        async def is_over(code: str = code) -> bool:
            return not {"PLANNED", "APPLYING"} & set(states_of(await listed(client, code)))

        await until(is_over)
        campaign = await client.get_campaign(code)
        assert (state_of(campaign), campaign.pause_reason) == ("PAUSED", "by hand")
        kinds = await kinds_of(service, code)
        if states_of(await listed(client, code)) == ["APPLIED", "APPLIED"]:
            assert kinds == ["paused", "resumed", "paused"]
            assert await skipped_in_trail(client, code) == []
        else:
            assert states_of(await listed(client, code)) == ["APPLIED", "CANCELLED"]
            assert kinds == ["paused", "paused"]
            assert await skipped_in_trail(client, code) == [LEFT_ALONE]
