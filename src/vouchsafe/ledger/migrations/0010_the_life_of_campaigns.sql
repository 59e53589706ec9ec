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

-- When a pause ends by itself; null for never.
alter table campaigns add column resume_at timestamptz;

-- What is to happen to campaigns, and what has become of it.
create table planned_changes (
    id bigint primary key generated always as identity,
    -- No foreign key: some are drawn from events, which must never be refused.
    campaign_id text collate "C" not null,
    due_at timestamptz not null,
    -- As in domain/plans.py.
    change jsonb not null,
    -- Planned by a pause that ends by itself, and gone with it.
    of_pause boolean not null default false,
    state text not null default 'planned' check (state in ('planned', 'applying', 'applied', 'cancelled', 'failed')),
    note text not null default '',
    -- Of a pause or resume, from when it is being applied. A campaign's turns grow in the order in which they are taken.
    turn bigint,
    ended_at timestamptz
);

create sequence planned_turns;

-- The calendar.
create index planned_changes_by_time on planned_changes (due_at, id);

-- What is due, and what is still planned for a campaign: asked several times a second.
create index planned_changes_open on planned_changes (campaign_id, due_at, id) where state in ('planned', 'applying');
create index planned_changes_due on planned_changes (due_at) where state in ('planned', 'applying');

-- The changes of a campaign are applied strictly one after the other, however many try to.
create unique index planned_changes_applying on planned_changes (campaign_id) where state = 'applying';

-- How many have failed.
create index planned_changes_failed on planned_changes (id) where state = 'failed';

-- The last turn of each campaign, for a gate that has lost it.
create index planned_changes_turns on planned_changes (campaign_id, turn) where state = 'applied' and turn is not null;
