-- Holding the gate's counters against the events.

-- name: audit_begin
-- What an audit works with, in its own session: the gate's counters come here, read by read, beside the view `moves`.
-- It may take as long as it takes.
set statement_timeout = 0;
-- Read after read of the gate, each with the last event that it is behind.
create temp table gate_reads (
    number bigint primary key, campaign_id text collate "C", partition smallint, epoch integer, ms bigint, seq bigint
);
-- `since` is from behind when the moments of a counter still count.
create temp table gate_counters (
    id bigint primary key generated always as identity, read bigint, campaign_id text collate "C", field text collate "C",
    value text, since bigint
);
-- Parts of transactions that no event tells of yet, as each read found them.
create temp table gate_parts (
    read bigint, partition smallint, campaign_id text collate "C", taken_ms bigint, body json
);
create temp table gate_events (like events including indexes);
create temp table not_read (campaign_id text collate "C", field text collate "C", primary key (campaign_id, field));
-- What leaves the outbox is in the ledger: what was read of the outbox first and of the ledger then is all there is.
create temp view book as
select partition, epoch, ms, seq, at, kind, campaign_id, body from events
union all
select g.partition, g.epoch, g.ms, g.seq, g.at, g.kind, g.campaign_id, g.body
from gate_events as g
where not exists (
    select from events as e where e.partition = g.partition and e.epoch = g.epoch and e.ms = g.ms and e.seq = g.seq
);
-- What each event, and each part, moves by how much. `what` is the moment, of a counter of moments; and of a counter of
-- different ones ("?x"), which of them.
-- A use that was reserved counts from when it was held, so its redemption only ends the hold.
create temp view moves as
with told as (
    select
        e.partition, e.epoch, e.ms, e.seq, null::bigint as read, e.campaign_id, e.kind, b.takes,
        coalesce(b.reservation_id, '') <> '' as is_reserved,
        coalesce(b.taken_ms, (extract(epoch from e.at) * 1000)::bigint) as moment
    from book as e
    cross join lateral json_to_record(e.body) as b (takes json, reservation_id text, taken_ms bigint)
    where e.kind in ('redeemed', 'held', 'released', 'expired', 'returned')
    union all
    select partition, 0, 0, 0, read, campaign_id, 'part', body -> 'takes', false, taken_ms from gate_parts
), signed as (
    select
        *,
        case
            when kind = 'redeemed' and is_reserved then 0
            when kind in ('redeemed', 'held', 'part') then 1
            else -1
        end as taken,
        case
            when kind in ('held', 'part') then 1
            when kind in ('released', 'expired') or kind = 'redeemed' and is_reserved then -1
            else 0
        end as held
    from told
)
select s.partition, s.epoch, s.ms, s.seq, s.read, s.campaign_id, m.field, m.what, m.amount
from signed as s cross join lateral (
    select
        case when t.key like '?%' then split_part(t.key, ':', 1) else t.key end as field,
        case when t.key like '?%' then t.key when t.key like '~%' then s.moment::text end as what,
        s.taken * case when t.key like '~%' then 1 else t.value::bigint end as amount
    from json_each_text(s.takes) as t
    where s.taken <> 0
    union all
    select 'held', null, s.held where s.held <> 0
    union all
    select 'held_money', null, s.held * coalesce((s.takes ->> 'money')::bigint, 0) where s.held <> 0
) as m;

-- name: audit_begin_partition
-- Forgets what was read of the one before.
truncate gate_reads, gate_counters, gate_parts, gate_events, not_read restart identity;

-- name: audit_campaigns
-- A page of the campaigns, by id, from behind $1 on.
select id from campaigns where id > $1 order by id limit $2;

-- name: audit_add_counters
-- What one read of the gate found: where, and then counters and parts column by column.
with added as (
    insert into gate_reads (number, partition, epoch, ms, seq, campaign_id) values ($1, $2, $3, $4, $5, $6)
), counted as (
    insert into gate_counters (read, campaign_id, field, value, since)
    select $1, $6, c.field, c.value, c.since
    from unnest($7::text[], $8::text[], $9::bigint[]) as c (field, value, since)
)
insert into gate_parts (read, partition, campaign_id, taken_ms, body)
select $1, $2, $6, p.taken_ms, p.body from unnest($10::bigint[], $11::json[]) as p (taken_ms, body);

-- name: audit_add_events
-- Events of a partition ($1) that wait in the outbox.
insert into gate_events (partition, epoch, ms, seq, at, kind, campaign_id, body)
select $1, e.epoch, e.ms, e.seq, e.at, e.kind, e.campaign_id, e.body
from unnest(
    $2::integer[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[], $8::json[]
) as e (epoch, ms, seq, at, kind, campaign_id, body)
on conflict do nothing;

-- name: audit_note_not_read
-- The counters of a partition ($1), or of one campaign ($2) of it, that were not read, though by the book they are not
-- zero.
insert into not_read (campaign_id, field)
select m.campaign_id, m.field
from moves as m
where m.partition = $1 and m.campaign_id = coalesce($2, m.campaign_id) and m.read is null
    and not exists (select from gate_counters as c where c.campaign_id = m.campaign_id and c.field = m.field)
group by m.campaign_id, m.field
having sum(m.amount) <> 0;

-- name: audit_not_read
-- A page of them, from behind ($1, $2) on.
select campaign_id, field from not_read where (campaign_id, field) > ($1, $2) order by campaign_id, field limit $3;

-- name: audit_analyze
-- Nobody else would tell the planner how much was read.
analyze gate_reads, gate_counters, gate_parts, gate_events;

-- name: audit_differing
-- The counters of a partition ($1) of which gate and book say different things, $2 at most, and how many there are. The
-- book says of each what the events up to the read say, and the parts that the read found.
with moved as (
    select c.id, m.what, sum(m.amount) as amount
    from gate_counters as c
    join gate_reads as r on r.number = c.read
    join (select * from moves where partition = $1) as m
        on m.campaign_id = c.campaign_id and m.field = c.field
        and (m.epoch, m.ms, m.seq) <= (r.epoch, r.ms, r.seq) and coalesce(m.read, r.number) = r.number
    group by c.id, m.what
), compared as (
    select
        c.campaign_id, c.field, c.value as gate,
        case
            when c.field like '?%' then (count(*) filter (where m.amount > 0))::text
            when c.since is null then coalesce(sum(m.amount), 0)::text
            else coalesce(
                string_agg(
                    rtrim(repeat(m.what || ' ', m.amount::integer)), ' ' order by m.what
                ) filter (where case when c.since is not null then m.amount > 0 and m.what::bigint > c.since end),
                ''
            )
        end as book
    from gate_counters as c left join moved as m using (id)
    group by c.id
)
select campaign_id, field as counter, gate, book, count(*) over () as differing
from compared
where gate <> book
order by campaign_id, field
limit $2;

-- name: audit_events
-- How many events of a partition, or of one campaign ($2) of it, the book has.
select count(*) from book where partition = $1 and campaign_id = coalesce($2, campaign_id);

-- name: audit_rows
-- Campaigns, or the one ($1), of which there are more or fewer rows than events to draw them from; $2 at most.
with counted as (
    select campaign_id, 'redemptions' as drawn, 0 as events, count(*) as found from redemptions
    where campaign_id = coalesce($1, campaign_id)
    group by campaign_id
    union all
    select campaign_id, 'returns', 0, count(*) from returns
    where campaign_id = coalesce($1, campaign_id)
    group by campaign_id
    union all
    select campaign_id, case kind when 'redeemed' then 'redemptions' else 'returns' end, count(*), 0 from events
    where kind in ('redeemed', 'returned') and campaign_id = coalesce($1, campaign_id)
    group by campaign_id, kind
)
select campaign_id, drawn as table, sum(found)::bigint as rows, sum(events)::bigint as events
from counted
group by campaign_id, drawn
having sum(found) <> sum(events)
order by campaign_id, drawn
limit $2;

-- name: audit_set_aside
-- Entries that were set aside, in the partitions $1, oldest first, $2 at most, and how many there are.
select partition, epoch, ms || '-' || seq as entry, reason, count(*) over () as entries
from set_aside
where partition = any($1::smallint[])
order by set_aside_at, partition, epoch, ms, seq
limit $2;

-- name: audit_due
-- Whether no audit has ended within the last $1 ms.
select coalesce((select ended_at <= now() - $1 * interval '1 ms' from last_audit), true);

-- name: save_audit
-- Puts the audit that has just ended, after $1 ms, in the place of the last.
insert into last_audit (
    began_at, campaigns, counters, events, closed_partitions, counters_differ, tables_differ, set_aside
)
values (now() - $1 * interval '1 ms', $2, $3, $4, $5, $6, $7, $8)
on conflict (one_row) do update set
    began_at = excluded.began_at, ended_at = excluded.ended_at, campaigns = excluded.campaigns,
    counters = excluded.counters, events = excluded.events, closed_partitions = excluded.closed_partitions,
    counters_differ = excluded.counters_differ, tables_differ = excluded.tables_differ,
    set_aside = excluded.set_aside;

-- name: last_audit
-- The last audit.
select * from last_audit;
