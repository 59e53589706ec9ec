-- What the gate has decided: written, and looked up again.

-- name: persist
-- Writes the events behind an offset ($3, $4) and moves it to the last of them ($5, $6); false when the partition is not
-- at that offset in that epoch. The compare-and-set in `moved` makes it exactly once: of two with the same offset, the
-- second waits for the first to commit and then finds no row, and without that row nothing is written. Redemptions are
-- drawn from their events here, codes ($14, $15) and campaigns ($16 to $20) brought to the state that their last event says,
-- and planned changes applied ($21, $22), cancelled ($23 to $26) and planned ($27 to $31).
-- One statement is one round trip and one transaction: for small batches an eighth of the work of COPY inside begin and
-- commit, for large ones as quick.
with moved as (
    update partitions set offset_ms = $5, offset_seq = $6
    where partition = $1 and epoch = $2 and offset_ms = $3 and offset_seq = $4
    returning partition
), written as (
    insert into events (partition, epoch, ms, seq, at, kind, campaign_id, body)
    select m.partition, e.epoch, e.ms, e.seq, e.at, e.kind, e.campaign_id, e.body
    from moved as m
    cross join unnest(
        $7::integer[], $8::bigint[], $9::bigint[], $10::timestamptz[], $11::text[], $12::text[], $13::json[]
    ) as e (epoch, ms, seq, at, kind, campaign_id, body)
    returning *
), redeemed as (
    insert into redemptions (
        partition, epoch, event_ms, event_seq, redeemed_at, request_id, fingerprint, campaign_id, campaign_version, code,
        customer_id, order_id, currency_code, order_amount_minor, discount_minor, discount, combined_id
    )
    select
        w.partition, w.epoch, w.ms, w.seq, w.at, c.request_id, c.fingerprint, c.campaign_id, c.campaign_version, c.code,
        c.customer_id, c.order_id, c.currency_code, c.order_amount_minor,
        coalesce((c.discount ->> 'applied_minor')::bigint, c.discount_minor), c.discount, coalesce(c.combined_id, '')
    from written as w
    cross join json_to_record(w.body) as c (
        request_id text, fingerprint text, campaign_id text, campaign_version bigint, code text, customer_id text,
        order_id text, currency_code text, order_amount_minor bigint, discount_minor bigint, discount json,
        combined_id text
    )
    where w.kind = 'redeemed'
), returned as (
    insert into returns (
        partition, epoch, event_ms, event_seq, returned_at, campaign_id, code, customer_id, redemption_id, rollback_id,
        uses, discount_minor
    )
    select
        w.partition, w.epoch, w.ms, w.seq, w.at, r.campaign_id, r.code, r.customer_id, r.redemption_id, r.rollback_id,
        coalesce(r.uses, 0), coalesce((r.takes ->> 'money')::bigint, 0)
    from written as w
    cross join json_to_record(w.body) as r (
        campaign_id text, code text, customer_id text, redemption_id text, rollback_id text, uses bigint,
        takes json
    )
    where w.kind = 'returned'
), switched as (
    insert into kill_switches (partition, scope, is_engaged, reason, at_ms)
    select distinct on (s.scope) w.partition, s.scope, w.kind = 'kill_engaged', s.reason, s.at_ms
    from written as w cross join json_to_record(w.body) as s (scope text, reason text, at_ms bigint)
    where w.kind in ('kill_engaged', 'kill_released')
    order by s.scope, w.epoch desc, w.ms desc, w.seq desc
    on conflict (scope, partition) do update
        set is_engaged = excluded.is_engaged, reason = excluded.reason, at_ms = excluded.at_ms
), stated as (
    update campaigns as c
    set state = s.state, pause_reason = s.pause_reason, resume_at = s.resume_at, pause_plan = s.pause_plan
    from moved cross join unnest($16::text[], $17::text[], $18::text[], $19::timestamptz[], $20::text[])
        as s (id, state, pause_reason, resume_at, pause_plan)
    where c.id = s.id
), marked as (
    update codes as c set disabled_reason = s.reason
    from moved cross join unnest($14::text[], $15::text[]) as s (code, reason)
    where c.code = s.code
), applied as (
    update planned_changes as p set state = 'applied', ended_at = a.at
    from moved cross join unnest($21::bigint[], $22::timestamptz[]) as a (id, at)
    where p.id = a.id and p.state = 'applying'
), cancelled as (
    update planned_changes as p set state = 'cancelled', note = c.note, ended_at = c.at
    from moved cross join unnest($23::text[], $24::boolean[], $25::text[], $26::timestamptz[])
        as c (campaign_id, is_all, note, at)
    where p.campaign_id = c.campaign_id and p.state = 'planned' and (p.of_pause or c.is_all)
), planned as (
    insert into planned_changes (campaign_id, due_at, change, of_pause, state, note, ended_at)
    select n.campaign_id, n.due_at, n.change, true, case when n.ended_at is null then 'planned' else 'cancelled' end, n.note,
        n.ended_at
    from moved cross join unnest($27::text[], $28::timestamptz[], $29::jsonb[], $30::text[], $31::timestamptz[])
        as n (campaign_id, due_at, change, note, ended_at)
)
select exists (select from moved);

-- name: set_aside
-- Keeps the entry behind an offset ($3, $4), written in epoch $7, as it is and moves the offset to it ($5, $6); false when
-- the partition is not at that offset in its epoch.
with moved as (
    update partitions set offset_ms = $5, offset_seq = $6
    where partition = $1 and epoch = $2 and offset_ms = $3 and offset_seq = $4
    returning partition, offset_ms, offset_seq
), kept as (
    insert into set_aside (partition, epoch, ms, seq, fields, reason)
    select partition, $7, offset_ms, offset_seq, $8::bytea[], $9 from moved
)
select exists (select from moved);

-- name: count_set_aside
-- How many entries are set aside.
select count(*) from set_aside;

-- name: get_redemption
-- A redemption by its id, with what its event says beside.
select
    r.*, e.body -> 'takes' as takes, (e.body ->> 'taken_ms')::bigint as taken_ms, e.body ->> 'reservation_id' as reservation_id
from redemptions as r
join events as e
    on e.partition = r.partition and e.epoch = r.epoch and e.ms = r.event_ms and e.seq = r.event_seq
where r.id = $1;

-- name: get_event
-- The event at a place, if it is of a kind.
select at, body from events where partition = $1 and epoch = $2 and ms = $3 and seq = $4 and kind = $5;

-- name: which_events
-- Those of these places, column by column, at which there is an event.
select partition, epoch, ms, seq
from events
join unnest($1::smallint[], $2::integer[], $3::bigint[], $4::bigint[]) as asked (partition, epoch, ms, seq)
    using (partition, epoch, ms, seq);

-- name: count_redemptions
-- How many redemptions of a campaign the ledger holds.
select count(*) from redemptions where campaign_id = $1;

-- name: campaign_counters
-- What the book holds of a campaign, less what has come back, and up to where it holds everything of its partition: one
-- statement, so that all is of one moment.
with moved as (
    select customer_id, 1 as uses, discount_minor from redemptions where campaign_id = $1
    union all
    select customer_id, -uses, -discount_minor from returns where campaign_id = $1
), by_customer as (
    select customer_id, sum(uses) as uses, sum(discount_minor) as discount_minor from moved group by customer_id
)
select
    coalesce(sum(c.uses), 0)::bigint as redeemed_count, coalesce(sum(c.discount_minor), 0)::bigint as discount_minor,
    count(*) filter (where c.uses > 0) as customer_count,
    (
        select p.partition || '-' || p.epoch || '-' || p.offset_ms || '-' || p.offset_seq
        from partitions as p
        where p.partition = $2
    ) as position
from by_customer as c;
