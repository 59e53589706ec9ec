"""The reader of one partition's outbox: the stream of events that the ledger does not hold yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import token_of
from vouchsafe.domain.redemption import Event, EventKind, Position, StreamId
from vouchsafe.gate.connection import CLOSED, checked, function_call
from vouchsafe.gate.connections import Connections
from vouchsafe.gate.keys import Keys


@dataclass(frozen=True, slots=True)
class NoEvent:
    """An entry of an outbox that is no event, and why it is none."""

    position: Position
    reason: str


def event_from_fields(partition: int, stream_id: StreamId, fields: Sequence[bytes]) -> Event:
    """Reads the flat field list of a stream entry. Raises ValueError, without saying what stands there, when it is not
    an event."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        event = Event(
            # Entries from before they told it are of the first.
            position=Position(partition, int(values.get(b"epoch", b"1")), stream_id),
            kind=EventKind(values[b"kind"].decode()),
            at_ms=int(values[b"at"]),
            campaign_id=values[b"campaign"].decode(),
            body=values[b"body"],
        )
    except KeyError as error:
        raise ValueError(f"a field is missing: {error.args[0].decode()}") from None
    except ValueError:
        raise ValueError("a field says what no event does") from None
    if not event.body.startswith(b"{"):
        raise ValueError("the body is no JSON object")
    return event


class Outbox:
    """Reads and trims one partition's stream over connections that are its own. Entries tell their epoch themselves:
    some may be from before the one that the partition is open under. Every method raises Unavailable."""

    def __init__(self, connections: Connections, partition: int, installation: str, epoch: int) -> None:
        self._partition = partition
        self._epoch = epoch
        self._installation = installation
        self._keys = Keys(partition)
        self._connections = connections

    async def read(self, after: StreamId, count: int, block_ms: int) -> list[Event | NoEvent]:
        """At most `count` entries after that id, in order; waits `block_ms` (0: not at all) for the first, then []."""
        blocking = ("BLOCK", block_ms) if block_ms else ()  # to Valkey a block of 0 is one without end
        command = ("XREAD", "COUNT", count, *blocking, "STREAMS", self._keys.outbox, str(after))
        commands = [command, ("GET", self._keys.meta)]
        reply, standing = checked(await self._connections.execute(commands, extra_wait_ms=block_ms))
        # What another installation, or a later epoch, has written is none of this ledger's business. An earlier one may
        # stand there while the partition is closed.
        installation, _, epoch = (standing or b"").decode(errors="replace").rpartition(":")
        if installation != self._installation or not epoch.isdecimal() or int(epoch) > self._epoch:
            raise Unavailable(CLOSED)
        if reply is None:
            return []
        ((_, entries),) = reply
        return [self._entry(StreamId.parse(entry_id.decode()), fields) for entry_id, fields in entries]

    async def fields(self, stream_id: StreamId) -> Sequence[bytes]:
        """An entry as it is, names and values in turn; empty when it is not there (any more)."""
        command = ("XRANGE", self._keys.outbox, str(stream_id), str(stream_id))
        (reply,) = checked(await self._connections.execute([command]))
        return reply[0][1] if reply else ()

    async def trim(self, upto: StreamId) -> int:
        """Removes the entries up to and including that id; answers how many went."""
        first_kept = StreamId(upto.ms, upto.seq + 1)
        names = [self._keys.meta, self._keys.outbox, self._keys.trimmed]
        call = function_call("trim", names, [token_of(self._installation, self._epoch), str(first_kept)])
        (reply,) = checked(await self._connections.call([call]))
        return int(reply)

    async def close(self) -> None:
        """Closes the connection."""
        await self._connections.close()

    def _entry(self, stream_id: StreamId, fields: Sequence[bytes]) -> Event | NoEvent:
        try:
            event = event_from_fields(self._partition, stream_id, fields)
        except ValueError as error:
            reason = str(error)
        else:
            if 1 <= event.position.epoch <= self._epoch:
                return event
            reason = "the epoch has not come"
        return NoEvent(Position(self._partition, self._epoch, stream_id), reason)
