-- Kill switches: stopping everything, the campaigns with a label, or a code.

alter table events
    drop constraint events_kind_check,
    add constraint events_kind_check check (
        kind in (
            'redeemed', 'combined', 'held', 'reserved', 'released', 'expired', 'rolled_back', 'returned', 'paused',
            'resumed', 'kill_engaged', 'kill_released'
        )
    );

-- What each partition says last of each scope, drawn from its events ('kill_engaged', 'kill_released') in the statement
-- that writes them.
create table kill_switches (
    partition smallint not null,
    scope text collate "C" not null,
    is_engaged boolean not null,
    reason text not null,
    at_ms bigint not null,
    primary key (scope, partition)
);

-- Everything that was stopped, and when; those events are few.
drop index events_of_state;
create index events_of_state on events (campaign_id, epoch, ms, seq)
    where kind in ('paused', 'resumed', 'kill_engaged', 'kill_released');
