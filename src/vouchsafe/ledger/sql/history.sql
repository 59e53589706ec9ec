-- Reading everything back, for a gate that has lost it.

-- name: history_begin
-- What is read may be worked on for long; and an index gives the first events at once, a sort would read all of them first.
set statement_timeout = 0;
set idle_in_transaction_session_timeout = 0;
set enable_sort = off;

-- name: history_count
-- How many events partitions have.
select count(*) from events where partition = any($1::smallint[]);

-- name: history_events
-- The events of a partition, in the order of its decisions.
select epoch, ms, seq, (extract(epoch from at) * 1000)::bigint, kind, campaign_id, convert_to(body::text, 'UTF8')
from events
where partition = $1
order by partition, epoch, ms, seq;

-- name: history_campaigns
-- All campaigns, with their states and the last turns that their planned changes have taken.
select
    c.id, c.version, c.definition, c.created_at, c.state, c.pause_reason, c.resume_at, c.pause_plan,
    (select max(p.turn) from planned_changes as p where p.campaign_id = c.id and p.state = 'applied' and p.turn is not null)
        as turn
from campaigns as c;

-- name: history_codes
-- All codes.
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at from codes;

-- name: history_disabled_codes
-- The codes that are disabled, campaign by campaign.
select campaign_id, code, disabled_reason from codes where disabled_reason is not null order by campaign_id;

-- name: history_unfinished_rollbacks
-- Rollbacks of which a code has not come back.
with asked as (
    select
        e.partition, e.epoch, e.ms, e.seq, e.body, c.value ->> 'code' as code,
        'r' || lpad(e.partition::text, 2, '0') || '-' || e.epoch || '-' || e.ms || '-' || e.seq as id
    from events as e cross join json_array_elements(e.body -> 'codes') as c
    where e.kind = 'rolled_back'
)
select distinct on (a.id) a.partition, a.epoch, a.ms, a.seq, convert_to(a.body::text, 'UTF8') as body
from asked as a
where not exists (select from returns as r where r.rollback_id = a.id and r.code = a.code);

-- name: history_missing_parts
-- Codes of redemptions of several codes, decided since $1 (ms), that have no redemption of their own.
with decided as (
    select
        e.partition, e.epoch, e.ms, e.seq, e.body, a.value ->> 'code' as code,
        'r' || lpad(e.partition::text, 2, '0') || '-' || e.epoch || '-' || e.ms || '-' || e.seq as id
    from events as e cross join json_array_elements(e.body -> 'applied') as a
    where e.kind = 'combined' and e.ms >= $1
)
select d.partition, d.epoch, d.ms, d.seq, convert_to(d.body::text, 'UTF8') as body, d.code
from decided as d
where not exists (
    select from redemptions as r where r.combined_id <> '' and r.combined_id = d.id and r.code = d.code
);
