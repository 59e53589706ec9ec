"""A store that cannot keep what would be acknowledged, or is none: it is refused with a sentence that says what to
change, at the start and while everything runs."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.opened import open_all
from tests.valkeys import client_of, clients
from tests.values import a_claim, a_definition, attempt_of
from vouchsafe.domain.campaign import Campaign
from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.domain.redemption import Redemption
from vouchsafe.embedded import HOST, EmbeddedValkey, free_port
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.states import States
from vouchsafe.gate.store import version_problem
from vouchsafe.settings import Acknowledge, Settings


async def refused(url: str, words: str, acknowledge: Acknowledge = "gate") -> None:
    with pytest.raises(Misconfigured, match=words) as caught:
        await Gate.connect(Settings(valkey_url=url, acknowledge=acknowledge), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "acknowledge", "found"),
    [
        ({"redis_version": "6.2.14"}, "gate", "leads to Redis 6.2.14; .* 7.0 or later"),
        ({"redis_version": "7.0.15"}, "gate", None),
        ({"redis_version": "7.0.15"}, "ledger", None),
        ({"redis_version": "7.0.15"}, "replica", "leads to Redis 7.0.15; .*=replica .* 7.2 or later"),
        ({"redis_version": "7.2.0"}, "replica", None),
        ({"redis_version": "10.0.1"}, "replica", None),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5", "server_name": "valkey"}, "replica", None),
        ({}, "gate", "tells no version"),
    ],
)
def test_a_release_that_is_too_old_is_named(told: dict[str, str], acknowledge: Acknowledge, found: str | None) -> None:
    problem = version_problem(told, acknowledge)
    assert problem is None if found is None else re.search(found, problem or "")


class Functionless(EmbeddedValkey):
    """As a store that speaks the protocol and has fewer commands."""

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--rename-command", "FUNCTION", ""]


async def test_a_store_without_functions_is_refused(tmp_path: Path) -> None:
    with Functionless(tmp_path / "valkey", free_port()) as store:
        await refused(store.url, "no command FUNCTION")


async def test_the_ledgers_address_is_refused_as_the_gates(ledger_url: str) -> None:
    parts = urlsplit(ledger_url)
    await refused(f"redis://{parts.hostname}:{parts.port}/0", "leads to a PostgreSQL")


@pytest.fixture
def web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer((HOST, 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"redis://{HOST}:{server.server_port}/0"
        server.shutdown()


async def test_what_speaks_another_language_is_refused(web_server: str) -> None:
    await refused(web_server, "does not speak as Valkey does")


async def test_a_store_that_asks_for_a_password_is_refused(own_valkey: EmbeddedValkey) -> None:
    for client in clients(own_valkey.url):
        client.config_set("requirepass", "a secret")
    await refused(own_valkey.url, "does not let us in")


async def test_a_store_that_is_only_away_is_waited_for(own_valkey: EmbeddedValkey) -> None:
    own_valkey.stop()
    with pytest.raises(Unavailable, match="out of reach"):
        await Gate.connect(Settings(valkey_url=own_valkey.url), 1)


@pytest.mark.one_node("the address of a replica leads to its cluster as any other does")
async def test_a_replica_is_refused_as_the_gate_and_a_primary_without_one_as_a_pair(
    own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    await refused(own_valkey.url, "no replica that is connected", "replica")
    with EmbeddedValkey(tmp_path / "replica", free_port(), own_valkey.port) as replica:
        await refused(replica.url, "leads to a replica")
        gate = await Gate.connect(Settings(valkey_url=own_valkey.url, acknowledge="replica"), 1)
        await gate.close()


@pytest.fixture
async def gate(own_valkey: EmbeddedValkey) -> AsyncIterator[Gate]:
    gate = await Gate.connect(Settings(valkey_url=own_valkey.url), 1)
    await open_all(gate)
    await gate.publish(Campaign("sale", 1, a_definition("Sale"), 0))
    yield gate
    await gate.close()


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("appendfsync", "everysec", "always"),
        ("appendonly", "no", "yes"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ],
)
async def test_what_is_turned_off_while_it_runs_ends_deciding_but_not_stopping(
    own_valkey: EmbeddedValkey, gate: Gate, name: str, value: str, right: str
) -> None:
    checkout = Checkout(gate, Settings(valkey_url=own_valkey.url))
    try:
        assert isinstance(await checkout.redeem(attempt_of(a_claim(1, "sale"))), Redemption)
        with client_of(own_valkey.url, Keys(0).meta) as client:
            client.config_set(name, value)
            sentence = f"Valkey has {name} {value}, .*; set it to {right}"
            with pytest.raises(Misconfigured, match=sentence):
                await gate.check_store()
            with pytest.raises(Unavailable, match=sentence):
                await checkout.redeem(attempt_of(a_claim(2, "sale")))
            # It stops; only nobody can say yet that this will be remembered.
            with pytest.raises(Unavailable, match=sentence):
                await States(gate).pause("sale", "in any case")
            client.config_set(name, right)
        await gate.check_store()
        (status,) = await gate.describe(["sale"])
        assert status is not None
        assert (status.campaign.kept, status.redeemed_count) == ("paused", 1)
        assert await States(gate).resume("sale", "all is well") is not None
        assert isinstance(await checkout.redeem(attempt_of(a_claim(2, "sale"))), Redemption)
    finally:
        await checkout.close()
