-- The life of campaigns: drafts that go live, and campaigns that are over for good.

alter table campaigns
    drop constraint campaigns_state_check,
    add constraint campaigns_state_check check (state in ('draft', 'active', 'paused', 'archived'));

alter table events
    drop constraint events_kind_check,
    add constraint events_kind_check check (
        kind in (
            'redeemed', 'combined', 'held', 'reserved', 'released', 'expired', 'rolled_back', 'returned', 'paused',
            'resumed', 'scheduled', 'archived', 'kill_engaged', 'kill_released', 'code_disabled', 'code_enabled'
        )
    );

-- Everything that was stopped, and when; those events are few.
drop index events_of_state;
create index events_of_state on events (campaign_id, epoch, ms, seq)
    where kind in ('paused', 'resumed', 'archived', 'kill_engaged', 'kill_released');
