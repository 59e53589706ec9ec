"""A partition that is not open under the caller's token decides nothing, whichever function is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.valkeys import client_of
from vouchsafe.embedded import EmbeddedValkey
from vouchsafe.gate import library
from vouchsafe.gate.keys import Keys

TOKEN = "installation:1"  # noqa: S105  # no secret
HERE = Keys(0)
META, RUN = HERE.meta, HERE.run
OPENED = (META, RUN, Keys(0).fences, Keys(0).stops)
LOOKED_UP = (META, "{p00}:numbers", "{p00}:codes:0", "{p00}:given:0")
CAMPAIGN, COUNTERS, ORDERS = Keys(0).campaign("x"), Keys(0).counters("x"), Keys(0).orders("x")


@pytest.fixture
def server(valkey_url: str) -> Iterator[redis.Redis]:
    with client_of(valkey_url, META, decode=True) as client:
        client.function_load(library.SOURCE, replace=True)
        yield client


def inspected(server: redis.Redis, keys: Keys = HERE) -> list[str]:
    found: Any = server.fcall(library.function_name("inspect"), 4, keys.meta, keys.outbox, keys.trimmed, keys.run)
    return list(found[:-1])  # the last is the time


def opened(server: redis.Redis, token: str = TOKEN, keys: Keys = HERE) -> bool:
    """Opens the partition as it is."""
    standing, *_, run = inspected(server, keys)
    names = (keys.meta, keys.run, keys.fences, keys.stops)
    return bool(server.fcall(library.function_name("open"), 4, *names, token, standing, run, 0))


def functions(server: redis.Redis) -> dict[str, set[str]]:
    """Every function of the library by its plain name, with its flags."""
    listed: Any = server.function_list(library=f"vouchsafe_{library.VERSION}")
    (loaded,) = listed
    fields: dict[str, Any] = loaded if isinstance(loaded, dict) else dict(zip(loaded[::2], loaded[1::2], strict=True))
    found = {}
    for entry in fields["functions"]:
        function = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        found[function["name"].removesuffix(f"_{library.VERSION}")] = set(function["flags"])
    return found


# The token may stand there: it is in the data, and data may be from elsewhere.
@pytest.mark.parametrize("standing", [None, "installation:2", "another:1", TOKEN])
def test_every_function_refuses_a_partition_that_is_not_open_and_writes_nothing(
    server: redis.Redis, standing: str | None
) -> None:
    if standing is not None:
        server.set(META, standing)
    names = set(functions(server)) - {"inspect", "open", "build", "fence"}
    assert {"redeem", "claim", "validate", "set_state", "publish", "put_codes", "trim"} <= names
    for name in names:
        with pytest.raises(redis.ResponseError, match="CLOSED"):
            server.fcall(library.function_name(name), 3, META, "{p00}:outbox", "{p00}:campaign:x", TOKEN, "1", "1", "1")
    assert server.keys() == ([] if standing is None else [META])


def test_a_partition_is_opened_only_as_it_was_inspected(server: redis.Redis) -> None:
    name = library.function_name("open")
    *_, run = inspected(server)
    assert server.fcall(name, 4, *OPENED, TOKEN, "", "another run", 0) == 0
    assert server.fcall(name, 4, *OPENED, TOKEN, "installation:9", run, 0) == 0
    assert server.keys() == []
    assert server.fcall(name, 4, *OPENED, TOKEN, "", run, 0) == 1
    assert server.fcall(name, 4, *OPENED, "installation:2", "", run, 0) == 0
    assert inspected(server) == [TOKEN, TOKEN, "0-0", "", run, run]


def test_the_next_epoch_fences_the_one_before(server: redis.Redis) -> None:
    resolve = library.function_name("resolve")
    assert opened(server)
    assert server.fcall(resolve, 4, *LOOKED_UP, TOKEN, "CODE") == [None]
    assert opened(server, "installation:2")
    with pytest.raises(redis.ResponseError, match="CLOSED"):
        server.fcall(resolve, 4, *LOOKED_UP, TOKEN, "CODE")


def test_a_partition_that_was_emptied_is_closed_though_its_process_has_opened_it(server: redis.Redis) -> None:
    assert opened(server)
    server.flushall()
    with pytest.raises(redis.ResponseError, match="CLOSED"):
        server.fcall(library.function_name("resolve"), 4, *LOOKED_UP, TOKEN, "CODE")


def test_after_a_restart_nothing_is_open(own_valkey: EmbeddedValkey) -> None:
    for end in (own_valkey.stop, own_valkey.kill):
        with client_of(own_valkey.url, META, decode=True) as client:
            if not client.function_list():
                client.function_load(library.SOURCE)
            assert opened(client)
        end()
        own_valkey.start()
        with client_of(own_valkey.url, META, decode=True) as client:
            standing, open_under, *_, opened_in, run = inspected(client)
            assert (standing, open_under) == (TOKEN, "")
            assert opened_in != run
            with pytest.raises(redis.ResponseError, match="CLOSED"):
                client.fcall(library.function_name("resolve"), 4, *LOOKED_UP, TOKEN, "CODE")


def test_what_only_reads_is_declared_so(server: redis.Redis) -> None:
    reading = {name for name, flags in functions(server).items() if "no-writes" in flags}
    looking = {"resolve", "event", "overdue", "noted", "expiring", "rolled", "returning", "look_at_codes", "definition"}
    assert reading == looking | {"trial", "inspect", "scan_counters", "read_counters", "stops", "labelled"}


def test_whoever_rebuilds_a_partition_closes_it_and_is_alone(server: redis.Redis) -> None:
    assert opened(server)
    *_, run = inspected(server)
    build, clear = library.function_name("build"), library.function_name("clear")
    assert server.fcall(build, 1, META, "installation:2", "", run) == 0
    assert server.fcall(build, 1, META, "installation:2", TOKEN, "another run") == 0
    assert server.fcall(build, 1, META, "installation:2", TOKEN, run) == 1
    with pytest.raises(redis.ResponseError, match="CLOSED"):
        server.fcall(library.function_name("resolve"), 4, *LOOKED_UP, TOKEN, "CODE")
    server.set("{p00}:x", 1)
    with pytest.raises(redis.ResponseError, match="CLOSED"):
        server.fcall(clear, 2, META, "{p00}:x", TOKEN)
    assert server.fcall(clear, 2, META, "{p00}:x", "installation:2") == 1
    assert not server.exists("{p00}:x")
    # A later one takes it over, and the earlier one writes nothing any more.
    assert server.fcall(build, 1, META, "installation:3", "building installation:2", run) == 1
    with pytest.raises(redis.ResponseError, match="CLOSED"):
        server.fcall(clear, 2, META, "{p00}:x", "installation:2")


def published(server: redis.Redis) -> None:
    names, values = [META, CAMPAIGN, COUNTERS, Keys(0).labels], [TOKEN, 1, "{}", 0, "", "x", "active", ""]
    assert server.fcall(library.function_name("publish"), 4, *names, *values) == 1


def redeem(server: redis.Redis, number: int, home: Keys | None = None) -> str:
    """What a request is answered; `home` is where its id belongs, None for here."""
    homes = [] if home is None else [(home.meta, TOKEN)]
    keys = [META, "{p00}:outbox", *(meta for meta, _ in homes), *Keys(0).of_campaigns(["x"])]
    keys += [keys_of.request(str(number)) for keys_of in (Keys(0), home) if keys_of is not None]
    item = [1, len(homes), 1, "f" * 32, f"order-{number} CODE", "uses 1 5 330", "", 0, 2**53, 7, "{}"]
    args = [TOKEN, 60_000, len(homes), *(token for _, token in homes), 1, "x", *item]
    (answer,) = server.fcall(library.function_name("redeem"), len(keys), *keys, *args)
    return str(answer)


@pytest.mark.one_node("a call to two partitions")
def test_the_home_of_a_request_id_is_asked_and_told_in_the_same_call(server: redis.Redis) -> None:
    home = Keys(1)
    assert opened(server)
    published(server)
    # Closed, it can neither say nor remember anything.
    assert redeem(server, 1, home) == "C"
    assert not server.exists("{p00}:outbox", Keys(0).request("1"), home.request("1"))
    assert opened(server, keys=home)
    assert redeem(server, 1, home).startswith("R ")
    assert server.get(home.request("1")) == "f" * 32
    assert server.pttl(home.request("1")) > 0
    # What it was told there before, and another's.
    server.set(home.request("2"), "f" * 32 + "D 1-5-0")
    assert redeem(server, 2, home) == "P D 1-5-0"
    server.set(home.request("3"), "e" * 32)
    assert redeem(server, 3, home) == "X"
    assert server.xlen("{p00}:outbox") == 1
    assert not server.exists(Keys(0).request("2"), Keys(0).request("3"))


@pytest.mark.parametrize("lost", ["version", "state", "counters"])
def test_a_campaign_that_is_not_all_there_admits_nobody(server: redis.Redis, lost: str) -> None:
    assert opened(server)
    published(server)

    assert redeem(server, 1).startswith("R ")
    if lost == "counters":
        server.delete(COUNTERS)
    else:
        server.hdel(CAMPAIGN, lost)
    assert redeem(server, 2) == "U"
    assert server.xlen("{p00}:outbox") == 1
    assert server.exists("{p00}:request:2") == 0
    # A definition that is published again does not make a new start of it.
    names = [META, CAMPAIGN, COUNTERS, Keys(0).labels]
    server.fcall(library.function_name("publish"), 4, *names, TOKEN, 2, "{}", 0, "", "x", "active", "")
    assert lost != "counters" or redeem(server, 2) == "U"


def test_an_older_definition_changes_nothing_and_a_newer_one_no_counter(server: redis.Redis) -> None:
    assert opened(server)

    def publish(version: int, text: str) -> object:
        args = [TOKEN, version, text, 0, "", "x", "active", ""]
        return server.fcall(library.function_name("publish"), 4, META, CAMPAIGN, COUNTERS, Keys(0).labels, *args)

    assert publish(2, "two") == 1
    server.hset(CAMPAIGN, mapping={"state": "paused", "pause_reason": "because"})
    server.hset(COUNTERS, "uses", 3)
    assert publish(1, "one") == 0
    assert publish(2, "again") == 0
    assert publish(3, "three") == 1
    assert server.hgetall(CAMPAIGN) == {
        "version": "3",
        "definition": "three",
        "created_ms": "0",
        "labels": "",
        "state": "paused",
        "pause_reason": "because",
    }
    assert server.hgetall(COUNTERS) == {"uses": "3"}
