-- What could not be taken over from an outbox, and what the last audit has found.

-- Entries of outboxes that are no events, or none that these tables take, as they were: so that what follows them goes
-- on. Whoever has mended what such an entry has left undone deletes its row.
create table set_aside (
    partition smallint not null,
    epoch integer not null,
    ms bigint not null,
    seq bigint not null,
    set_aside_at timestamptz not null default now(),
    -- Never shows what stands in the entry: codes are secrets.
    reason text not null,
    -- Names and values in turn, as in the stream.
    fields bytea[] not null,
    primary key (partition, epoch, ms, seq)
);

-- The last audit that came to its end. One row.
create table last_audit (
    one_row boolean primary key default true check (one_row),
    began_at timestamptz not null,
    ended_at timestamptz not null default now(),
    campaigns bigint not null,
    counters bigint not null,
    events bigint not null,
    closed_partitions bigint not null,
    counters_differ bigint not null,
    tables_differ bigint not null,
    set_aside bigint not null
);
