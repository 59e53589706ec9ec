"""Events become rows exactly once, in the order of the stream, and stay as they are."""

from __future__ import annotations

import asyncio
import dataclasses
from importlib import resources

import asyncpg
import pytest

from tests.ledger.events import EPOCH, PARTITION, SUMMER, event, paused, redeemed, resumed, stream_id
from vouchsafe.domain.redemption import STREAM_START, Claim, Event, EventKind, Position, Redemption
from vouchsafe.ledger.connection import Rejected
from vouchsafe.ledger.ledger import Ledger, OffsetMoved
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.stops import StopBook


@pytest.fixture(autouse=True)
async def _campaign(ledger: Ledger) -> None:
    await ledger.bootstrap(16)
    await ledger.create_campaign("summer", SUMMER, [])


async def persist(ledger: Ledger, *events: Event) -> None:
    """From wherever the ledger is."""
    state = await ledger.partition(PARTITION)
    await ledger.persist(PARTITION, EPOCH, state.offset, events)


async def test_a_redemption_comes_back_as_it_was_recorded(ledger: Ledger) -> None:
    events = [redeemed(number) for number in range(2_000)]
    await persist(ledger, *events)
    assert (await ledger.partition(PARTITION)).offset == stream_id(1_999)
    assert await ledger.count_redemptions("summer") == 2_000
    for one in (events[0], events[1_234], events[-1]):
        assert await ledger.get_redemption(one.position) == Redemption.from_event(one)
    assert await ledger.get_redemption(redeemed(2_000).position) is None
    assert await ledger.get_redemption(Position(99, 10**19, stream_id(0))) is None


async def test_events_keep_the_words_of_the_gate(ledger: Ledger, sql: asyncpg.Connection) -> None:
    events = [redeemed(0), paused(1, "why \u00e9"), resumed(2)]
    await persist(ledger, *events)
    rows = await sql.fetch("select * from events order by partition, epoch, ms, seq")
    assert [row["body"].encode() for row in rows] == [one.body for one in events]
    assert [row["kind"] for row in rows] == ["redeemed", "paused", "resumed"]


async def test_of_20_at_the_same_offset_one_writes(ledger: Ledger, sql: asyncpg.Connection) -> None:
    # As two persisters would that both believe to own the partition; what they have read differs.
    results = await asyncio.gather(
        *(
            ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(number) for number in range(length)])
            for length in range(1, 21)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, OffsetMoved) for result in results) == 19
    assert results.count(None) == 1
    written = results.index(None) + 1
    assert await ledger.count_redemptions("summer") == written
    assert await sql.fetchval("select count(*) from events") == written
    assert (await ledger.partition(PARTITION)).offset == stream_id(written - 1)


async def test_another_offset_or_epoch_writes_nothing(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await persist(ledger, redeemed(0), redeemed(1))
    for offset in (STREAM_START, stream_id(0), stream_id(2)):
        with pytest.raises(OffsetMoved):
            await ledger.persist(PARTITION, EPOCH, offset, [redeemed(3), paused(4)])
    await sql.execute("update partitions set epoch = 2")
    with pytest.raises(OffsetMoved):
        await ledger.persist(PARTITION, EPOCH, stream_id(1), [redeemed(3), paused(4)])
    assert await sql.fetchval("select count(*) from events") == 2
    assert await ledger.count_redemptions("summer") == 2
    assert await sql.fetchval("select state from campaigns") == "active"


async def test_events_out_of_order_or_of_elsewhere_are_refused(ledger: Ledger, sql: asyncpg.Connection) -> None:
    elsewhere = dataclasses.replace(redeemed(5), position=Position(PARTITION + 1, EPOCH, stream_id(5)))
    of_later_epoch = dataclasses.replace(redeemed(1), position=Position(PARTITION, EPOCH + 1, stream_id(1)))
    for events in (
        [redeemed(1), redeemed(0)],
        [redeemed(1), redeemed(1)],
        [redeemed(1), elsewhere],
    ):
        with pytest.raises(ValueError, match="does not follow"):
            await persist(ledger, *events)
    # Such an entry may come from outside; it is one to be set aside.
    with pytest.raises(Rejected, match="an epoch that was over"):
        await persist(ledger, of_later_epoch, redeemed(5))
    await persist(ledger, redeemed(1))
    with pytest.raises(ValueError, match="does not follow"):
        await persist(ledger, redeemed(1))
    assert await sql.fetchval("select count(*) from events") == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b"[]",
        redeemed(1).body.replace(b'"order-1"', b"null"),
        redeemed(1).body.replace(b"1200", b'"much"'),
    ],
)
async def test_an_event_that_is_none_holds_up_its_whole_batch(
    ledger: Ledger, sql: asyncpg.Connection, body: bytes
) -> None:
    with pytest.raises(Rejected):
        await persist(ledger, redeemed(0), event(1, EventKind.REDEEMED, body))
    assert await sql.fetchval("select count(*) from events") == 0
    assert (await ledger.partition(PARTITION)).offset == STREAM_START


async def test_state_follows_the_last_event_of_each_campaign(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.create_campaign("winter", SUMMER, [])

    async def states() -> dict[str, tuple[str, str]]:
        rows = await sql.fetch("select id, state, pause_reason from campaigns")
        return {row["id"]: (row["state"], row["pause_reason"]) for row in rows}

    await persist(ledger, paused(0, "first"), resumed(1), paused(2, "second"), paused(3, "cold", "winter"))
    assert await states() == {"summer": ("paused", "second"), "winter": ("paused", "cold")}
    await persist(ledger, redeemed(4), resumed(5, "sold again"))
    assert await states() == {"summer": ("active", ""), "winter": ("paused", "cold")}


async def test_a_nul_holds_nothing_up(ledger: Ledger, sql: asyncpg.Connection) -> None:
    event = redeemed(0)
    await persist(ledger, dataclasses.replace(event, body=event.body.replace(b"order-0", b"order\\u0000")))
    assert await sql.fetchval("select order_id from redemptions") == "order\ufffd"


async def test_no_reason_of_a_pause_holds_up_the_ledger(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await persist(ledger, paused(0, "a NUL \0 and a half \ud800 pair"))
    assert await sql.fetchval("select pause_reason from campaigns") == "a NUL ? and a half ? pair"
    assert [one.reason for one in await StopBook(ledger).stretches(1)] == ["a NUL \ufffd and a half \ufffd pair"]
    assert "a NUL \\u0000 and a half \\ud800 pair" in await sql.fetchval("select body::text from events")


async def test_redemptions_after_a_pause_are_counted_by_the_order_of_the_stream(ledger: Ledger) -> None:
    await persist(ledger, redeemed(0), redeemed(1))
    assert await StopBook(ledger).taken_while_paused("summer") == 0
    await persist(ledger, paused(2), redeemed(3, "winter"))
    assert await StopBook(ledger).taken_while_paused("summer") == 0
    # This must never happen; if it does, it shows.
    await persist(ledger, redeemed(4), redeemed(5))
    assert await StopBook(ledger).taken_while_paused("summer") == 2
    await persist(ledger, resumed(6), redeemed(7), paused(8), redeemed(9))
    assert await StopBook(ledger).taken_while_paused("summer") == 3


async def test_what_is_redeemed_behind_the_end_is_counted_too(ledger: Ledger) -> None:
    archived = dataclasses.replace(paused(0), kind=EventKind.ARCHIVED)
    await persist(ledger, archived)
    assert await StopBook(ledger).taken_while_paused("summer") == 0
    await persist(ledger, redeemed(1))
    assert await StopBook(ledger).taken_while_paused("summer") == 1


@pytest.mark.parametrize("number", ['"soon"', "-1", "0", "true", "1e300", "9223372036854775808", "[]"])
@pytest.mark.parametrize("name", ["resume_time_ms", "change_id"])
async def test_a_pause_with_a_number_that_is_none_is_rejected(ledger: Ledger, name: str, number: str) -> None:
    body = f'{{"reason": "", "{name}": {number}}}'.encode()
    with pytest.raises(Rejected):
        await persist(ledger, dataclasses.replace(paused(0), body=body))


@pytest.mark.parametrize("change", ["update events set kind = 'paused'", "delete from events", "truncate events"])
async def test_events_are_append_only(ledger: Ledger, sql: asyncpg.Connection, change: str) -> None:
    await persist(ledger, redeemed(0))
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await sql.execute(change)
    assert await sql.fetchval("select kind from events") == "redeemed"


async def test_the_table_has_every_field_of_a_claim(sql: asyncpg.Connection) -> None:
    rows = await sql.fetch("select column_name from information_schema.columns where table_name = 'redemptions'")
    place = {"id", "partition", "epoch", "event_ms", "event_seq", "redeemed_at"}
    in_event_only = {"takes", "taken_ms", "reservation_id"}
    assert {row["column_name"] for row in rows} == (
        place | {"discount_minor", *Claim.__struct_fields__}
    ) - in_event_only


def test_every_query_has_a_purpose_and_a_user() -> None:
    folder = resources.files("vouchsafe.ledger")
    code = "".join(file.read_text() for file in folder.iterdir() if file.name.endswith(".py"))
    for name, text in SQL.items():
        assert text.startswith("-- "), f"{name} does not say what it is for"
        assert f'"{name}"' in code, f"nobody uses {name}"
