"""The audit trail: noted with what is done, once, and broken by whoever changes it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from tests.ledger.events import EPOCH, PARTITION, SUMMER, event, paused, redeemed, resumed
from tests.values import a_definition
from vouchsafe.domain.access import Role
from vouchsafe.domain.campaign import CodeEntry, Definition
from vouchsafe.domain.codes import CodeForm
from vouchsafe.domain.kill_switch import SwitchEvent
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.redemption import STREAM_START, Event, EventKind
from vouchsafe.domain.trail import FIRST_HASH, UNKNOWN, Action, AuditEvent, Author, ChainCheck, Note, TrailFilter
from vouchsafe.ledger.codes import CodeBook
from vouchsafe.ledger.keys import KeyBook
from vouchsafe.ledger.ledger import Ledger, OffsetMoved
from vouchsafe.ledger.trail import TrailBook, Walk
from vouchsafe.service.keys import new_key
from vouchsafe.service.trail import check_chain

EVERYTHING = TrailFilter()
OPERATORS, ACTIONS = 12, 10


async def trail(ledger: Ledger, wanted: TrailFilter = EVERYTHING) -> list[AuditEvent]:
    """Oldest first."""
    return (await TrailBook(ledger).list(wanted, 10_000, None))[::-1]


async def check(url: str, expected: bytes | None = None) -> ChainCheck:
    async with Walk.begin(url, 5_000) as walk:
        return await check_chain(walk, expected, lambda _done, _total: None)


def told(one: AuditEvent) -> tuple[str, str, str, object, object]:
    return one.principal, one.action, one.target, json.loads(one.before), json.loads(one.after)


def a_note(number: int, reason: str = "") -> Note:
    author = Author(f"key:operator-{number % 3}", f"action-{number}")
    return Note(author, Action.CODES_EXPORT, "codes", {}, {"number": number}, reason)


def authored(one: Event, author: Author) -> Event:
    return dataclasses.replace(one, body=json.dumps({**json.loads(one.body), **author.told()}).encode())


def put(definition: Definition) -> Callable[[Definition], Definition]:
    """The change that puts a definition in the place of whatever stands."""
    return lambda _: definition


# -- what is noted -----------------------------------------------------------------------------------------------------


async def test_of_a_definition_it_is_told_what_was_changed(ledger: Ledger) -> None:
    ops = Author("key:ops", "1")
    await ledger.create_campaign(
        "summer", SUMMER, [CodeEntry("HUSH-4711", "summer", None)], author=ops, reason="it is warm"
    )
    await ledger.update_campaign("summer", put(a_definition("Summer", 500, Limits(total=9))), 1, Author("key:ops", "2"))
    assert await ledger.update_campaign("summer", put(SUMMER), 1, Author("key:ops", "3")) is None
    created, updated = await trail(ledger)
    assert (created.principal, created.action, created.target) == ("key:ops", "campaign.create", "campaign:summer")
    assert (created.reason, created.action_id, created.before) == ("it is warm", "1", "{}")
    after = json.loads(created.after)
    assert after.items() >= {"codes": 1, "display_name": "Summer", "effects[0].kind.basis_points": 1_000}.items()
    assert "HUSH" not in created.after
    assert told(updated)[3:] == (
        {"effects[0].kind.basis_points": 1_000, "version": 1},
        {"effects[0].kind.basis_points": 500, "limits.total": 9, "version": 2},
    )


async def test_what_was_not_done_is_not_noted(ledger: Ledger) -> None:
    await ledger.create_campaign("summer", SUMMER, [])
    book = CodeBook(ledger)
    with pytest.raises(Exception, match="already"):
        await ledger.create_campaign("summer", SUMMER, [])
    assert await book.create_operation("o", "nothing", CodeForm(), 1, 5) is None
    assert await book.create_operation("o", "summer", CodeForm(), 1, 5)
    assert await book.create_operation("o", "summer", CodeForm(), 1, 5) is None
    assert await book.gift(CodeEntry("MINE", "summer", 1, "alice", 0), "g")
    assert await book.gift(CodeEntry("OTHER", "summer", 1, "alice", 0), "g") is None
    assert await book.assign("MINE", "bob", 0, None) is None
    actions = [one.action for one in await trail(ledger)]
    assert actions == ["campaign.create", "codes.generate", "codes.gift"]


async def test_a_key_is_noted_without_its_secret(ledger: Ledger, ledger_url: str) -> None:
    key, kept = new_key("berlin", [Role.CHECKOUT], 1_900_000_000_000)
    async with KeyBook.open(ledger_url, 5_000) as book:
        await book.create(kept, Author("local:ann", "1"))
        for number in range(2, 5):  # only the first time ends it
            assert await book.revoke(kept.id, Author("local:ben", str(number)))
        assert not await book.revoke("nothing")
    created, revoked = await trail(ledger)
    after = {"name": "berlin", "roles": ["checkout"], "expire_time": "2030-03-17T17:46:40+00:00"}
    assert told(created) == ("local:ann", "key.create", f"key:{kept.id}", {}, after)
    assert (revoked.principal, revoked.action, revoked.target) == ("local:ben", "key.revoke", f"key:{kept.id}")
    assert key.split("_", 2)[2] not in str(created)
    assert kept.secret_hash.hex() not in str(created)


async def test_an_event_is_noted_with_its_author_and_its_time(ledger: Ledger) -> None:
    await ledger.bootstrap(16)
    code = json.dumps({"code": "LEAKED", "reason": "", **Author("key:desk", "c").told()}).encode()
    events = [
        redeemed(0),
        authored(paused(1, "stock is gone"), Author("key:ops", "a")),
        authored(resumed(2), Author("token:ann", "b")),
        event(3, EventKind.CODE_DISABLED, code),
        event(4, EventKind.CODE_ENABLED, code.replace(b'"c"', b'"d"')),
    ]
    await ledger.persist(PARTITION, EPOCH, STREAM_START, events)
    with pytest.raises(OffsetMoved):
        await ledger.persist(PARTITION, EPOCH, STREAM_START, events)
    found = await trail(ledger)
    assert [told(one) for one in found] == [
        ("key:ops", "campaign.pause", "campaign:summer", {"state": "active"}, {"state": "paused"}),
        ("token:ann", "campaign.resume", "campaign:summer", {"state": "paused"}, {"state": "active"}),
        ("key:desk", "code.disable", "code:LEAKED", {"state": "enabled"}, {"state": "disabled"}),
        ("key:desk", "code.enable", "code:LEAKED", {"state": "disabled"}, {"state": "enabled"}),
    ]
    assert [one.at_ms for one in found] == [one.at_ms for one in events[1:]]
    assert found[0].reason == "stock is gone"


async def switched(ledger: Ledger, partition: int, kind: EventKind, body: bytes) -> None:
    await ledger.persist(partition, EPOCH, STREAM_START, [_in(partition, event(partition, kind, body, ""))])


def _in(partition: int, one: Event) -> Event:
    return dataclasses.replace(one, position=one.position._replace(partition=partition))


async def test_a_kill_switch_is_one_action_in_however_many_partitions(ledger: Ledger, ledger_url: str) -> None:
    await ledger.bootstrap(16)
    body = SwitchEvent("label:november", "a leak", 1_700_000_000_123, "key:ops", "one").to_json()
    await asyncio.gather(*(switched(ledger, partition, EventKind.KILL_ENGAGED, body) for partition in range(16)))
    (found,) = await trail(ledger)
    target, states = "kill_switch:label:november", ({"state": "released"}, {"state": "engaged"})
    assert told(found) == ("key:ops", "kill_switch.engage", target, *states)
    assert (found.at_ms, found.reason) == (1_700_000_000_123, "a leak")
    assert (await check(ledger_url)).broken is None


async def test_what_nobody_is_the_author_of_is_noted_each_time(ledger: Ledger) -> None:
    await ledger.bootstrap(16)
    events = [authored(paused(0), UNKNOWN), authored(resumed(1), UNKNOWN), authored(paused(2), UNKNOWN)]
    await ledger.persist(PARTITION, EPOCH, STREAM_START, events)
    assert [(one.principal, one.action_id) for one in await trail(ledger)] == [("unknown", None)] * 3


async def test_what_an_older_release_has_written_is_noted_of_nobody_known(ledger: Ledger) -> None:
    await ledger.bootstrap(16)
    body = b'{"scope":"*","reason":"","at_ms":1700000000123}'
    for partition in range(PARTITION):
        await switched(ledger, partition, EventKind.KILL_ENGAGED, body)
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [paused(0), resumed(1), paused(2)])
    found = await trail(ledger)
    assert [(one.principal, one.action) for one in found] == [
        ("unknown", "kill_switch.engage"),
        ("unknown", "campaign.pause"),
        ("unknown", "campaign.resume"),
        ("unknown", "campaign.pause"),
    ]


async def test_it_is_listed_by_whom_what_on_what_and_when(ledger: Ledger) -> None:
    book = TrailBook(ledger)
    for number in range(10):
        target = "campaign:even" if number % 2 == 0 else "code:ODD"
        author = Author(f"key:{number % 5}", str(number))
        await book.note(Note(author, Action.CAMPAIGN_PAUSE, target, {}, {}, "", 1_000 * number))
    await book.note(a_note(10))

    async def numbers(limit: int = 100, before: int | None = None, **wanted: str | int) -> list[int]:
        return [one.number for one in await book.list(TrailFilter(**wanted), limit, before)]  # type: ignore[arg-type]

    assert await numbers() == list(range(11, 0, -1))
    assert await numbers(principal="key:2") == [8, 3]
    assert await numbers(target="code:ODD", limit=2) == [10, 8]
    assert await numbers(target="code:ODD", limit=2, before=8) == [6, 4]
    assert await numbers(action="codes.export") == [11]
    assert await numbers(start_time_ms=2_000, end_time_ms=4_000) == [4, 3]
    assert await numbers(principal="key:2", start_time_ms=2_001, action="campaign.pause") == [8]


# -- the chain ---------------------------------------------------------------------------------------------------------


async def test_many_operators_on_many_partitions_make_one_chain(ledger: Ledger, ledger_url: str) -> None:
    await ledger.bootstrap(16)
    await ledger.create_campaign("shared", SUMMER, [])

    async def operate(operator: int) -> None:
        author = f"key:operator-{operator}"
        for number in range(ACTIONS):
            id_ = f"{operator}-{number}"
            await ledger.create_campaign(f"c-{id_}", SUMMER, [], author=Author(author, f"create-{id_}"))
            # All on one row, which has to be waited for before the head is.
            await ledger.update_campaign("shared", put(SUMMER), None, Author(author, f"update-{id_}"))

    async def persist(partition: int) -> None:
        offset = STREAM_START
        for number in range(ACTIONS):
            place = f"{partition}-{number}"
            stopped = authored(paused(2 * number, campaign_id="shared"), Author("key:ops", f"pause-{place}"))
            going_on = authored(resumed(2 * number + 1, campaign_id="shared"), Author("key:ops", f"resume-{place}"))
            events = [_in(partition, one) for one in (stopped, going_on)]
            await ledger.persist(partition, EPOCH, offset, events)
            offset = events[-1].position.stream_id

    await asyncio.gather(*map(operate, range(OPERATORS)), *map(persist, range(16)))
    done = 1 + 2 * ACTIONS * (OPERATORS + 16)
    found = await check(ledger_url)
    assert (found.broken, found.rows) == (None, done)
    noted = await trail(ledger)
    assert len({one.action_id for one in noted}) == len(noted) == done
    # Who saw which version last: each update tells of the one that it replaced.
    versions = [json.loads(one.after)["version"] for one in noted if one.action == "campaign.update"]
    assert versions == list(range(2, 2 + OPERATORS * ACTIONS))


async def test_the_same_action_told_by_many_at_once_is_noted_once(ledger: Ledger, ledger_url: str) -> None:
    book = TrailBook(ledger)
    await asyncio.gather(*(book.note(a_note(number % 3)) for number in range(30)))
    assert (await check(ledger_url)).rows == 3


@pytest.mark.parametrize("reason", ["", "plain", "Grüße, 价格 🎟", "1:a-", "\n'\"\\", "x" * 5_000])
async def test_whatever_is_said_has_the_same_hash_here_and_there(ledger: Ledger, ledger_url: str, reason: str) -> None:
    await TrailBook(ledger).note(Note(UNKNOWN, Action.KEY_CREATE, reason, {"a": reason}, {reason: None}, reason, 17))
    found = await check(ledger_url)
    assert (found.broken, found.rows) == (None, 1)


async def test_before_the_first_action_the_chain_is_whole(ledger_url: str) -> None:
    assert await check(ledger_url, FIRST_HASH) == ChainCheck(0, FIRST_HASH, None, 0)


async def test_a_head_that_was_noted_is_found_again(ledger: Ledger, ledger_url: str) -> None:
    book = TrailBook(ledger)
    for number in range(3):
        await book.note(a_note(number))
    noted = (await check(ledger_url)).head
    assert (await trail(ledger))[-1].hash == noted
    for number in range(3, 5):
        await book.note(a_note(number))
    found = await check(ledger_url, noted)
    assert (found.broken, found.rows, found.expected_row) == (None, 5, 3)


@pytest.mark.parametrize("statement", ["update audit_events set reason = ''", "delete from audit_events",
    "truncate audit_events", "delete from audit_head", "truncate audit_head"])  # fmt: skip
async def test_nothing_is_changed_or_deleted(ledger: Ledger, sql: asyncpg.Connection, statement: str) -> None:
    await TrailBook(ledger).note(a_note(0))
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await sql.execute(statement)


Tamper = Callable[[asyncpg.Connection], Awaitable[object]]


def by(statement: str) -> Tamper:
    return lambda sql: sql.execute(statement)


async def rewrite(sql: asyncpg.Connection) -> None:
    """All of row 4 and behind, so that it fits, as only who has the function can."""
    rows = await sql.fetch("select * from audit_events where number >= 4 order by number")
    await sql.execute("delete from audit_events where number >= 4")
    await sql.execute("update audit_head set number = 3, hash = (select hash from audit_events where number = 3)")
    for row in rows:
        _, at, _, action, target, before, after, reason, action_id, _, _ = row
        await sql.execute(
            "select append_audit_event($1, 'key:nobody', $2, $3, $4, $5, $6, $7)",
            *(at, action, target, before, after, reason, action_id),
        )


TAMPERED: dict[str, tuple[Tamper, str]] = {
    "who": (by("update audit_events set principal = 'key:x' where number = 4"), "row 4 was changed"),
    "when": (by("update audit_events set at = at + interval '1 us' where number = 1"), "row 1 was changed"),
    "never": (by("update audit_events set at = 'infinity' where number = 1"), "row 1 was changed"),
    "white space": (by("update audit_events set after = '{ }' where number = 10"), "row 10 was changed"),
    "no id": (by("update audit_events set action_id = null where number = 2"), "row 2 was changed"),
    "its hash, too": (
        by("update audit_events set hash = sha256('x') where number = 10; update audit_head set hash = sha256('x')"),
        "row 10 was changed",
    ),
    "deleted": (by("delete from audit_events where number = 5"), "row 5 is missing"),
    "the first": (by("delete from audit_events where number = 1"), "row 1 is missing"),
    "all": (by("delete from audit_events"), "row 1 is missing, and so are all up to 10"),
    "the tail": (by("delete from audit_events where number > 7"), "row 8 is missing, and so are all up to 10"),
    "the tail, and the head put back": (
        by("delete from audit_events where number > 7; "
           "update audit_head h set number = 7, hash = e.hash from audit_events e where e.number = 7"),
        "no row has the expected head",
    ),
    "inserted behind the end": (
        by("insert into audit_events select 11, at, principal, action, target, before, after, reason, 'x', hash, "
           "sha256('x') from audit_events where number = 10"),
        "row 11 was changed",
    ),
    "inserted before the begin": (
        by("insert into audit_events select 0, at, principal, action, target, before, after, reason, 'x', prev_hash, "
           "sha256('x') from audit_events where number = 1"),
        "row 0 has a number that no row was given",
    ),
    "exchanged": (
        by("update audit_events set number = -number where number in (3, 4); "
           "update audit_events set number = 7 + number where number < 0"),
        "row 3 does not follow",
    ),
    "the end": (by("update audit_head set hash = sha256('x')"), "row 10 is not the one that the chain ends with"),
    "the number of the end": (by("update audit_head set number = 9"), "row 10 stands behind the end"),
    "written anew": (rewrite, "no row has the expected head"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
async def test_whatever_a_superuser_changes_is_found(
    ledger: Ledger, ledger_url: str, sql: asyncpg.Connection, what: str
) -> None:
    book = TrailBook(ledger)
    for number in range(10):
        await book.note(a_note(number))
    noted = await check(ledger_url)
    assert (noted.broken, noted.rows) == (None, 10)
    tamper, expected = TAMPERED[what]
    await sql.execute("set session_replication_role = replica")  # no trigger is asked
    await tamper(sql)
    found = await check(ledger_url, noted.head)
    assert found.broken is not None
    assert found.broken.startswith(expected)


async def test_a_row_that_fits_behind_the_end_is_found(
    ledger: Ledger, ledger_url: str, sql: asyncpg.Connection
) -> None:
    """One that was appended rightly, with the end put back to before it."""
    book = TrailBook(ledger)
    await book.note(a_note(0))
    head = await sql.fetchrow("select number, hash from audit_head")
    assert head is not None
    await book.note(a_note(1))
    await sql.execute("update audit_head set number = $1, hash = $2", *head)
    assert (await check(ledger_url)).broken == "row 2 stands behind the end of the chain"
