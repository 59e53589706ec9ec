-- Reservations, and what comes back of redemptions. Both are events; of what comes back there is a row, too, so that a
-- campaign's figures are sums.

alter table events
    drop constraint events_kind_check,
    add constraint events_kind_check check (
        kind in (
            'redeemed', 'combined', 'held', 'released', 'expired', 'rolled_back', 'returned', 'paused', 'resumed'
        )
    );

-- What came back of one code of a redemption, drawn from its event ('returned') in the statement that writes the event.
create table returns (
    partition smallint not null,
    epoch integer not null,
    event_ms bigint not null,
    event_seq bigint not null,
    returned_at timestamptz not null,
    campaign_id text collate "C" not null,
    code text collate "C" not null,
    customer_id text collate "C" not null,
    redemption_id text collate "C" not null,
    rollback_id text collate "C" not null,
    -- 1 when the use itself came back, else 0.
    uses bigint not null,
    -- What came back to the campaign, in minor units.
    discount_minor bigint not null,
    primary key (partition, epoch, event_ms, event_seq)
);

-- A campaign's figures.
create index returns_by_campaign on returns (campaign_id);
