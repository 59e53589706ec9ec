-- First light: who we are, what operators defined, and what the gate decided.
--
-- Ids and codes are compared byte by byte (collate "C"): quicker, and the order is the same in Python.
-- Times are whole milliseconds; those of events and redemptions are the gate's clock.

-- Which installation this ledger belongs to. One row, written once.
create table installation (
    one_row boolean primary key default true check (one_row),
    id uuid not null default gen_random_uuid(),
    partitions smallint not null check (partitions between 1 and 100),
    created_at timestamptz not null default now()
);

-- How far the ledger has followed each partition's outbox: every entry up to (offset_ms, offset_seq) is in events.
-- The row changes with every batch, so its page keeps room for new versions of it beside the old ones.
create table partitions (
    partition smallint primary key,
    epoch integer not null default 1 check (epoch >= 1),
    -- Set once Valkey has the partition's token; from then on a missing token is lost data, not a new partition.
    opened_at timestamptz,
    offset_ms bigint not null default 0,
    offset_seq bigint not null default 0
) with (fillfactor = 50);

create table campaigns (
    id text collate "C" primary key,
    version bigint not null default 1 check (version >= 1),
    -- The version that the gate is known to have; behind `version` while a publication is under way or was cut off.
    published_version bigint not null default 0 check (published_version between 0 and version),
    definition jsonb not null,
    -- As the outbox tells it, so it can be a moment behind the gate.
    state text not null default 'active' check (state in ('active', 'paused')),
    pause_reason text not null default '',
    created_at timestamptz not null default date_trunc('milliseconds', now())
);

-- The listing, newest first.
create index campaigns_by_age on campaigns (created_at desc, id desc);

-- The reconciler asks every second; this index is empty nearly always.
create index campaigns_unpublished on campaigns (id) where published_version < version;

create table codes (
    code text collate "C" primary key,
    campaign_id text collate "C" not null references campaigns (id),
    use_limit bigint check (use_limit >= 1)
);

-- A campaign's codes page by page, for publishing them.
create index codes_by_campaign on codes (campaign_id, code);

-- Every decision, in the order in which the gate took it. `body` is json, not jsonb: the book keeps the gate's very
-- words, takes whatever is valid JSON, and is written a third faster.
create table events (
    partition smallint not null,
    epoch integer not null,
    ms bigint not null,
    seq bigint not null,
    at timestamptz not null,
    kind text not null check (kind in ('redeemed', 'paused', 'resumed')),
    campaign_id text collate "C" not null,
    body json not null,
    primary key (partition, epoch, ms, seq)
);

-- When a campaign was paused and resumed. Those events are few, so writing redemptions does not pay for it.
create index events_of_state on events (campaign_id, epoch, ms, seq) where kind <> 'redeemed';

-- Append-only, whoever asks. A statement trigger costs an insert nothing.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'table % is append-only: % is refused', tg_table_name, tg_op;
end
$$;

create trigger append_only before update or delete or truncate on events
    for each statement execute function refuse_change();

-- Every use that was taken, drawn from its event in the statement that writes the event. No foreign key to campaigns:
-- it would be looked up once a row, and the definition is written before the gate can know the campaign.
create table redemptions (
    -- As in domain/redemption.py: r<partition>-<epoch>-<ms>-<seq>.
    id text collate "C" primary key generated always as (
        'r' || lpad(partition::text, 2, '0') || '-' || epoch::text || '-' || event_ms::text || '-' || event_seq::text
    ) stored,
    partition smallint not null,
    epoch integer not null,
    event_ms bigint not null,
    event_seq bigint not null,
    redeemed_at timestamptz not null,
    request_id text collate "C" not null,
    fingerprint text collate "C" not null,
    campaign_id text collate "C" not null,
    campaign_version bigint not null,
    code text collate "C" not null,
    customer_id text collate "C" not null,
    order_id text collate "C" not null,
    currency_code text collate "C" not null,
    order_amount_minor bigint not null,
    discount_minor bigint not null
);

-- Counting a campaign's redemptions. Equal keys are stored once, so it is small and nearly free to write. Each further
-- index would take about a tenth off the rows a second; it comes with the query that needs it.
create index redemptions_by_campaign on redemptions (campaign_id);
