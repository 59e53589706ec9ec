"""Definitions and codes: written whole or not at all, and listed without gaps or repeats."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.ledger.events import SUMMER
from tests.values import a_definition, amount, percent
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.codes import CodeFilter
from vouchsafe.domain.errors import AlreadyExists, InvalidRequest
from vouchsafe.domain.limits import HonourQuoted, IdentityKind, IdentityLimit, Limits
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.codes import CodeBook
from vouchsafe.ledger.connection import Rejected
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.campaigns import Campaigns
from vouchsafe.settings import Settings


def codes(campaign_id: str, *names: str) -> list[CodeEntry]:
    return [CodeEntry(name, campaign_id, 1) for name in names]


@pytest.mark.parametrize(
    "definition",
    [
        a_definition("Bare", 10_000),
        Definition(
            display_name="'; drop table codes; -- \u00e9 \U0001f3f7",
            effects=amount(10**15),
            currency_code="EUR",
            limits=Limits(total=10**12, per_customer=10**6),
        ),
        Definition(
            display_name="Dates",
            effects=percent(1),
            limits=Limits(total=1),
            start_time_ms=946_684_800_000,
            end_time_ms=7_258_118_400_000,
        ),
    ],
)
async def test_a_definition_comes_back_as_it_was_given(ledger: Ledger, definition: Definition) -> None:
    created = await ledger.create_campaign("c", definition, [])
    assert (created.id, created.version, created.definition) == ("c", 1, definition)
    assert await ledger.get_campaign("c") == created
    assert await ledger.get_campaign("d") is None


async def test_a_taken_id_or_code_is_named_and_nothing_is_written(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.create_campaign("summer", SUMMER, codes("summer", "A", "B"))
    with pytest.raises(AlreadyExists, match="campaign summer"):
        await ledger.create_campaign("summer", SUMMER, codes("summer", "NEW"))
    with pytest.raises(AlreadyExists, match="code B belongs"):
        await ledger.create_campaign("winter", SUMMER, codes("winter", "NEW", "B", "A"))
    assert [row["id"] for row in await sql.fetch("select id from campaigns")] == ["summer"]
    assert [row["code"] for row in await sql.fetch("select code from codes order by code")] == ["A", "B"]


async def test_of_16_campaigns_at_once_one_gets_the_code(ledger: Ledger, sql: asyncpg.Connection) -> None:
    # Each has the codes in another order: nobody may wait for somebody who waits for them.
    names = [f"CODE-{number:02}" for number in range(16)]
    results = await asyncio.gather(
        *(
            ledger.create_campaign(f"c-{shift}", SUMMER, codes(f"c-{shift}", *names[shift:], *names[:shift]))
            for shift in range(16)
        ),
        return_exceptions=True,
    )
    (winner,) = [result for result in results if isinstance(result, Campaign)]
    assert sum(isinstance(result, AlreadyExists) for result in results) == 15
    owners = await sql.fetch("select campaign_id, count(*) as codes from codes group by campaign_id")
    assert [tuple(row) for row in owners] == [(winner.id, 16)]
    assert await sql.fetchval("select count(*) from campaigns") == 1


async def test_values_that_postgresql_cannot_hold_are_rejected(ledger: Ledger) -> None:
    with pytest.raises(Rejected):
        await ledger.create_campaign("c", a_definition("a NUL \0", 1), [])
    with pytest.raises(ValueError, match="codes must be different"):
        await ledger.create_campaign("c", SUMMER, codes("c", "A", "A"))
    assert await ledger.get_campaign("c") is None


@pytest.mark.parametrize("page", [1, 3, 7, 100])
async def test_pages_have_no_gaps_and_no_repeats(ledger: Ledger, sql: asyncpg.Connection, page: int) -> None:
    made = [await ledger.create_campaign(f"c-{number}", SUMMER, []) for number in range(20)]
    # Several of the same millisecond: the id decides.
    await sql.execute("update campaigns set created_at = '2026-01-01' where id in ('c-3', 'c-4', 'c-5', 'c-6')")
    expected = [row["id"] for row in await sql.fetch("select id from campaigns order by created_at desc, id desc")]
    seen: list[Campaign] = []
    while found := await ledger.list_campaigns(page, (seen[-1].create_time_ms, seen[-1].id) if seen else None):
        assert len(found) <= page
        seen += found
        # What is created meanwhile is newer than what is still to come.
        if len(seen) < 20:
            await ledger.create_campaign(f"new-{len(seen)}", SUMMER, [])
    assert [campaign.id for campaign in seen] == expected
    assert len(expected) == len(made)


async def test_the_codes_of_a_campaign_come_in_pages(ledger: Ledger) -> None:
    entries = [CodeEntry(f"CODE-{number:05}", "c", None if number < 100 else 1) for number in range(10_100)]
    await ledger.create_campaign("c", SUMMER, entries)
    await ledger.create_campaign("other", SUMMER, codes("other", "CODE-00000-OTHER"))
    seen: list[CodeEntry] = []
    of_campaign = CodeFilter(campaign_id="c")
    while found := await CodeBook(ledger).list_codes(of_campaign, seen[-1].code if seen else "", 3_000):
        seen += (kept.entry for kept in found)
    assert seen == entries


async def test_a_campaign_is_unpublished_until_its_version_is_noted(ledger: Ledger, sql: asyncpg.Connection) -> None:
    for name in ("b", "a", "c"):
        await ledger.create_campaign(name, SUMMER, [])
    assert [campaign.id for campaign in await ledger.unpublished(2)] == ["a", "b"]
    assert [campaign.id for campaign in await ledger.unpublished(2, after="b")] == ["c"]
    await ledger.mark_published("b", 1)
    await ledger.mark_published("b", 1)
    await ledger.mark_published("a", 2)  # there is no such version
    assert [campaign.id for campaign in await ledger.unpublished(9)] == ["a", "c"]

    await sql.execute("update campaigns set version = 3, published_version = 2 where id = 'b'")
    await ledger.mark_published("b", 1)  # an old publication that ends late
    assert await sql.fetchval("select published_version from campaigns where id = 'b'") == 2
    assert [campaign.id for campaign in await ledger.unpublished(9)] == ["a", "b", "c"]


async def test_what_needs_a_secret_is_refused_without_one(ledger: Ledger, settings: Settings) -> None:
    limits = Limits(
        total=1,
        identities=IdentityLimit(kinds=(IdentityKind.CARD,), uses=1),
        honour_quoted=HonourQuoted(within_ms=1_000, overdraft_uses=1),
    )
    gate = await Gate.connect(settings, 1)
    try:
        with pytest.raises(InvalidRequest) as caught:
            await Campaigns(gate, ledger, has_secret=False).create("c", a_definition(limits=limits), [])
        Campaigns(gate, ledger, has_secret=True).check_supported(a_definition(limits=limits))
    finally:
        await gate.close()
    assert [violation.field for violation in caught.value.violations] == [
        "definition.limits.identities",
        "definition.limits.honour_quoted",
    ]
    assert all("VOUCHSAFE_SECRET" in violation.description for violation in caught.value.violations)
    assert await ledger.get_campaign("c") is None
