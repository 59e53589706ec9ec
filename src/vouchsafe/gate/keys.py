"""Every key name that the gate uses, and which partition a thing belongs to.

All keys of a partition carry its hash tag `{pNN}`, so on a Valkey Cluster they share a slot and one function call may
touch any of them. A campaign's keys lie in the partition of the campaign's id, so that every counter a redemption
moves changes in one atomic step. Codes and request ids are looked up before the campaign is known; they lie in the
partition of their own text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cached_property

# Into how many small hashes a partition's codes are spread. Up to some 500 codes each of them is one run of bytes
# (hash-max-listpack-entries), without a pointer for any of them: 67 million codes in 16 partitions.
BUCKETS = 8_192


def bucket_of(code: str, partitions: int) -> int:
    """In which of its partition's hashes a code lies: stable for ever."""
    return zlib.crc32(code.encode()) // partitions % BUCKETS


def partition_of(text: str, partitions: int) -> int:
    """The partition, from 0 to partitions - 1, of a campaign id, a code or a request id: stable for ever."""
    return zlib.crc32(text.encode()) % partitions


class Keys:
    """The keys of one partition."""

    def __init__(self, partition: int) -> None:
        self._tag = f"{{p{partition:02}}}"

    @cached_property
    def meta(self) -> str:
        """String: the token "<installation>:<epoch>" that every call must name. Its name is that of this layout of the
        keys: another one would find the partition closed, not empty."""
        return f"{self._tag}:open4"

    @cached_property
    def trimmed(self) -> str:
        """String: the first stream id that was not trimmed off the outbox: what is before it, a ledger must hold."""
        return f"{self._tag}:trimmed"

    @cached_property
    def run(self) -> str:
        """String: the run of the process of Valkey in which the partition was opened last."""
        return f"{self._tag}:run"

    @cached_property
    def fences(self) -> str:
        """Hash: another partition -> its epoch: what was held there in an earlier one is not decided here any more."""
        return f"{self._tag}:fences"

    @cached_property
    def outbox(self) -> str:
        """Stream: the partition's events that the ledger does not hold yet."""
        return f"{self._tag}:outbox"

    @cached_property
    def touched(self) -> str:
        """String, empty: what an exchange writes to have a write of its own that a replica can confirm."""
        return f"{self._tag}:touched"

    @cached_property
    def numbers(self) -> str:
        """Hash: id of a campaign that has codes here -> its number among those, and "#<number>" -> the id."""
        return f"{self._tag}:numbers"

    def codes(self, bucket: int) -> str:
        """Hash: code -> "<number of its campaign>[:<use limit, 0 for none>][g]"; without a limit told it may be used
        once, "g" says that it was given to a customer. For the codes of this partition that lie in the bucket."""
        return f"{self._tag}:codes:{bucket}"

    def given(self, bucket: int) -> str:
        """Hash: code that was given -> "<holder> <when in ms> <first ms at which it is not valid, 0 for none told>"."""
        return f"{self._tag}:given:{bucket}"

    @cached_property
    def pending(self) -> str:
        """Sorted set: parts of transactions that are held, "<campaign> <order> <code> <transaction>", by deadline."""
        return f"{self._tag}:pending"

    @cached_property
    def holding(self) -> str:
        """Sorted set: campaigns that have reservations, by when the first of those ends or before."""
        return f"{self._tag}:holding"

    @cached_property
    def rolled(self) -> str:
        """Hash: id of a redemption -> what is left of it after rollbacks, as JSON."""
        return f"{self._tag}:rolled"

    @cached_property
    def returning(self) -> str:
        """Hash: place of a rollback -> its event's body, until everything has come back."""
        return f"{self._tag}:returning"

    @cached_property
    def stops(self) -> str:
        """Hash: scope of a kill switch -> what is kept of it (stop.lua). Not there when none is engaged."""
        return f"{self._tag}:stops"

    @cached_property
    def labels(self) -> str:
        """Hash: campaign id -> its labels with spaces between them, for those that have any."""
        return f"{self._tag}:labels"

    def reservation(self, reservation_id: str) -> str:
        """String: the place of a reservation's event, and what it is of, as JSON. Expires, but not before its end is
        known for as long as answers are remembered."""
        return f"{self._tag}:reservation:{reservation_id}"

    def reservation_end(self, reservation_id: str) -> str:
        """String: how a reservation has ended, as a request's answer. Expires after the reservation."""
        return f"{self._tag}:reservation-end:{reservation_id}"

    def mark(self, rollback_id: str, code: str) -> str:
        """String: there when a code's part of a rollback has come back. Expires once all parts have."""
        return f"{self._tag}:mark:{rollback_id}:{code}"

    def request(self, request_id: str) -> str:
        """String: fingerprint of the request, followed by its answer once there is one. Expires."""
        return f"{self._tag}:request:{request_id}"

    def bucket(self, name: str) -> str:
        """String: when a bucket of failed codes is full again, in ms; it expires then. The name is a hash."""
        return f"{self._tag}:bucket:{name}"

    def transaction(self, transaction_id: str) -> str:
        """String: the place of the redemption that was decided, or empty when the transaction was undone."""
        return f"{self._tag}:transaction:{transaction_id}"

    def campaign(self, campaign_id: str) -> str:
        """Hash: definition, version, labels and state; and "disabled <code>" -> how and why for each code that is
        disabled."""
        return f"{self._tag}:campaign:{campaign_id}"

    def counters(self, campaign_id: str) -> str:
        """Hash: counter -> how far it has gone; `uses` is always there."""
        return f"{self._tag}:counters:{campaign_id}"

    def orders(self, campaign_id: str) -> str:
        """Hash: "<order id> <code>" -> what the order has of the code (decide.lua)."""
        return f"{self._tag}:orders:{campaign_id}"

    def holds(self, campaign_id: str) -> str:
        """Sorted set: "<order id> <code>" of reservations that end by themselves, by when, in milliseconds."""
        return f"{self._tag}:holds:{campaign_id}"

    def of_campaigns(self, campaign_ids: Iterable[str]) -> list[str]:
        """The five keys of each campaign, as orders.lua takes them."""
        found: list[str] = []
        for campaign_id in campaign_ids:
            found += (
                self.campaign(campaign_id),
                self.counters(campaign_id),
                self.orders(campaign_id),
                self.holds(campaign_id),
                self.stops,
            )
        return found
