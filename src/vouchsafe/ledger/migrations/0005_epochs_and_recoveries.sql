-- Recovery: what a partition's epochs have been, what was rebuilt, and what it takes to rebuild.

-- A reservation is an event of its own, so that it is known again after Valkey has lost it.
alter table events
    drop constraint events_kind_check,
    add constraint events_kind_check check (
        kind in (
            'redeemed', 'combined', 'held', 'reserved', 'released', 'expired', 'rolled_back', 'returned', 'paused',
            'resumed'
        )
    );

-- Transactions and rollbacks of which a part may be missing. Most events are neither.
create index events_of_several on events (partition, epoch, ms, seq) where kind in ('combined', 'rolled_back');
create index redemptions_combined on redemptions (combined_id) where combined_id <> '';
create index returns_by_rollback on returns (rollback_id);

-- Every time that partitions had to be verified, newest last; the one that is under way has no end yet.
create table recoveries (
    id bigint primary key generated always as identity,
    partitions smallint[] not null,
    -- Why: the words of domain/partitions.py.
    finding text not null,
    began_at timestamptz not null default now(),
    ended_at timestamptz,
    -- Of a rebuild: events to read, and read so far.
    events bigint,
    events_read bigint not null default 0
);
