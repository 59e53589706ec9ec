-- Every query of the ledger. `-- name:` begins one; the comment after it says what it is for.

-- name: server
-- Is this a server that can keep what it is given?
select
    current_setting('server_version_num')::integer as version_num,
    current_setting('server_encoding') as encoding,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit;

-- name: try_lock
-- Takes a partition for this session, unless another session has it.
select pg_try_advisory_lock($1, $2);

-- name: unlock
-- Gives a partition back.
select pg_advisory_unlock($1, $2);

-- name: create_installation
-- Makes the one row of the installation, unless it is there; of two at the same time one waits and then finds it.
insert into installation (partitions) values ($1)
on conflict do nothing
returning true;

-- name: create_partitions
-- The partitions of a new installation, numbered from 0, none of them opened yet.
insert into partitions (partition) select generate_series(0, $1::integer - 1);

-- name: get_installation
-- The installation with its partitions, one a row.
select i.id::text as id, p.partition, p.epoch, p.opened_at is not null as opened, p.offset_ms, p.offset_seq
from installation as i cross join partitions as p
order by p.partition;

-- name: get_partition
-- One partition as it is now.
select partition, epoch, opened_at is not null as opened, offset_ms, offset_seq
from partitions
where partition = $1;

-- name: mark_opened
-- Notes that the gate holds a partition. The first time stands.
update partitions set opened_at = now()
where partition = $1 and epoch = $2 and opened_at is null;

-- name: begin_epoch
-- The next epoch of a partition that is at epoch $2 by the ledger and at $3 by the gate: what was begun before it writes
-- nothing any more. With ($4, $5) only if the ledger holds nothing behind that stream id, so that nothing is lost.
update partitions set epoch = greatest(epoch, $3) + 1
where partition = $1 and epoch = $2 and (offset_ms, offset_seq) <= (coalesce($4, offset_ms), coalesce($5, offset_seq))
returning partition, epoch, opened_at is not null as opened, offset_ms, offset_seq;

-- name: begin_recovery
-- Notes that partitions are being recovered.
insert into recoveries (partitions, finding, events) values ($1::smallint[], $2, $3)
returning id;

-- name: note_recovery
-- Notes how far a recovery is, and with true for $3 that it has ended.
update recoveries set events_read = $2, ended_at = case when $3 then now() end where id = $1;

-- name: last_recovery
-- The newest recovery, which may be under way.
select partitions, finding, began_at, ended_at, events, events_read from recoveries order by id desc limit 1;

-- name: create_campaign
-- Answers nothing when the id is taken.
insert into campaigns (id, definition) values ($1, $2)
on conflict do nothing
returning id, version, definition, created_at;

-- name: create_codes
-- Answers the codes that were free, and notes that the gate lacks them. Sorted, so that two campaigns with the same codes
-- cannot wait for each other.
with created as (
    insert into codes (code, campaign_id, use_limit, holder_id, assigned_at)
    select c.code, $1, c.use_limit, c.holder_id, c.assigned_at
    from unnest($2::text[], $3::bigint[], $4::text[], $5::timestamptz[]) as c (code, use_limit, holder_id, assigned_at)
    order by c.code
    on conflict do nothing
    returning code
), noted as (
    insert into codes_unpublished (campaign_id, codes)
    select $1, array_agg(code) from created having count(*) > 0
)
select code from created;

-- name: taken_codes
-- Which of these codes exist, in order.
select code from codes where code = any($1::text[]) order by code;

-- name: update_campaign
-- Puts a definition in the place of version $3, or of any version with null for $3. Answers nothing when there is no
-- such campaign, or it is at another version.
update campaigns set definition = $2, version = version + 1
where id = $1 and version = coalesce($3, version)
returning id, version, definition, created_at;

-- name: get_campaign
-- A definition by its id.
select id, version, definition, created_at
from campaigns
where id = $1;

-- name: list_campaigns
-- A page of the listing, newest first, from behind (created_at $2, id $3) on; with null for $2 from the newest.
select id, version, definition, created_at
from campaigns
where (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
order by created_at desc, id desc
limit $1;

-- name: unpublished
-- A page of the campaigns whose definition the gate may not have, by id, from behind $2 on.
select id, version, definition, created_at
from campaigns
where published_version < version and id > $2
order by id
limit $1;

-- name: unpublished_codes
-- What the gate may lack: of an operation ($2), or of a campaign ($1) or of all without an operation, with what is known of
-- each code now.
select u.id, c.code, c.campaign_id, c.use_limit, c.holder_id, c.assigned_at, c.expires_at
from (
    select id, codes
    from codes_unpublished
    where campaign_id = coalesce($1, campaign_id) and operation_id is not distinct from $2
    order by id
    limit $3
) as u cross join unnest(u.codes) as n (code) join codes as c using (code);

-- name: mark_codes_published
-- The gate has them.
delete from codes_unpublished where id = any($1::bigint[]);

-- name: list_codes
-- A page of codes in order, from behind $1 on; filters are added to its condition (ledger/codes.py).
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at, disabled_reason
from codes
where code > $1
order by code
limit $2;

-- name: assign_code
-- Gives a code that belongs to nobody and has a limit of uses to a customer, and notes that the gate lacks that. Answers
-- nothing when it is not so.
with given as (
    update codes set holder_id = $2, assigned_at = $3, expires_at = $4
    where code = $1 and holder_id = '' and use_limit is not null
    returning *
), noted as (
    insert into codes_unpublished (campaign_id, codes) select campaign_id, array[code] from given
)
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at, disabled_reason from given;

-- name: get_code
-- One code.
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at, disabled_reason from codes where code = $1;

-- name: gift_code
-- Makes a code ($1) of a campaign ($2) for a customer, by a request ($6). Answers nothing when there is no such campaign,
-- the code is taken, or the request has its code.
with given as (
    insert into codes (code, campaign_id, use_limit, holder_id, assigned_at, expires_at, gift_id)
    select $1, id, 1, $3, $4, $5, $6 from campaigns where id = $2
    on conflict do nothing
    returning *
), noted as (
    insert into codes_unpublished (campaign_id, codes) select campaign_id, array[code] from given
)
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at, disabled_reason from given;

-- name: get_gift
-- The code that a request has made.
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at, disabled_reason from codes where gift_id = $1;

-- name: create_operation
-- Answers nothing when the id is taken, or there is no such campaign.
insert into operations (id, campaign_id, pattern, charset, use_limit, wanted)
select $1, c.id, $3, $4, $5, $6 from campaigns as c where c.id = $2
on conflict do nothing
returning *;

-- name: codes_of_form
-- How many codes of a form there are, or will be.
select coalesce(sum(wanted), 0)::bigint from operations where pattern = $1 and charset = $2;

-- name: get_operation
-- One operation.
select * from operations where id = $1;

-- name: list_operations
-- A page of operations, newest first, from behind (created_at $3, id $4) on; with null for $3 from the newest; of a campaign
-- ($1), or of all with null.
select *
from operations
where campaign_id = coalesce($1, campaign_id) and (created_at, id) < (coalesce($3::timestamptz, 'infinity'), $4)
order by created_at desc, id desc
limit $2;

-- name: running_operations
-- Those that are not at their end.
select * from operations where ended_at is null order by number;

-- name: generate_codes
-- Writes the next codes ($3) of an operation that is at $2, and with them how far it is; answers how many of them were
-- new, and under which number the gate lacks them. Of two who are at the same point the second waits for the first and then
-- finds no row: null.
with due as (
    select id, campaign_id, use_limit from operations where id = $1 and done = $2 and ended_at is null for update
), created as (
    insert into codes (code, campaign_id, use_limit)
    select c.code, d.campaign_id, d.use_limit
    from due as d cross join unnest($3::text[]) as c (code)
    order by c.code
    on conflict do nothing
    returning code
), moved as (
    update operations as o set done = o.done + (select count(*) from created) from due as d where o.id = d.id
), noted as (
    insert into codes_unpublished (campaign_id, operation_id, codes)
    select d.campaign_id, d.id, c.codes
    from due as d cross join (select array_agg(code) as codes from created having count(*) > 0) as c
    returning id
)
select (select count(*) from created) as created, (select id from noted) as publication from due;

-- name: end_operation
-- Ends an operation, with an error or, once all its codes are there and published, without.
update operations set ended_at = date_trunc('milliseconds', now()), error = $2
where id = $1 and ended_at is null and (
    $2 <> '' or done = wanted and not exists (select from codes_unpublished where operation_id = $1)
);

-- name: mark_published
-- Notes that the gate has a version of a definition. A later one that is noted already stands.
update campaigns set published_version = $2
where id = $1 and published_version < $2 and version >= $2;

-- name: persist
-- Writes the events behind an offset ($3, $4) and moves it to the last of them ($5, $6); false when the partition is not
-- at that offset in that epoch. The compare-and-set in `moved` makes it exactly once: of two with the same offset, the
-- second waits for the first to commit and then finds no row, and without that row nothing is written. Redemptions are
-- drawn from their events here, and campaigns ($14 to $16) and codes ($17, $18) brought to the state that their last event
-- says.
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
    update campaigns as c set state = s.state, pause_reason = s.pause_reason
    from moved cross join unnest($14::text[], $15::text[], $16::text[]) as s (id, state, pause_reason)
    where c.id = s.id
), marked as (
    update codes as c set disabled_reason = s.reason
    from moved cross join unnest($17::text[], $18::text[]) as s (code, reason)
    where c.code = s.code
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

-- name: redemptions_after_pause
-- How many redemptions of a campaign stand behind its first pause and before the resumption that follows, if one does.
-- A campaign lies in one partition, so epoch and stream id order all of its history.
with paused as (
    select epoch, ms, seq
    from events
    where campaign_id = $1 and kind = 'paused'
    order by epoch, ms, seq
    limit 1
), resumed as (
    select e.epoch, e.ms, e.seq
    from events as e cross join paused as p
    where e.campaign_id = $1 and e.kind = 'resumed' and (e.epoch, e.ms, e.seq) > (p.epoch, p.ms, p.seq)
    order by e.epoch, e.ms, e.seq
    limit 1
)
select count(*)
from redemptions as r cross join paused as p left join resumed as s on true
where r.campaign_id = $1
    and (r.epoch, r.event_ms, r.event_seq) > (p.epoch, p.ms, p.seq)
    and (s.epoch is null or (r.epoch, r.event_ms, r.event_seq) < (s.epoch, s.ms, s.seq));

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
-- All campaigns, with their states.
select id, version, definition, created_at, state, pause_reason from campaigns;

-- name: history_codes
-- All codes.
select code, campaign_id, use_limit, holder_id, assigned_at, expires_at from codes;

-- name: history_disabled_codes
-- The codes that are disabled, campaign by campaign.
select campaign_id, code, disabled_reason from codes where disabled_reason is not null order by campaign_id;

-- name: stops
-- Every time that something was stopped, newest first, at most $1: what ('campaign:<id>' or the scope of a kill switch), why,
-- from when to when (null: still), and how many uses were taken in that stretch of the streams of its partitions. A
-- campaign that has left the label of a kill switch is not told apart from one that has it: labels are those of now.
with switched as (
    select
        e.partition, e.epoch, e.ms, e.seq, e.at, e.kind in ('paused', 'kill_engaged') as stops,
        coalesce('campaign:' || nullif(e.campaign_id, ''), s.scope) as what, s.reason,
        coalesce(s.at_ms, (extract(epoch from e.at) * 1000)::bigint) as began_ms
    from events as e cross join json_to_record(e.body) as s (scope text, reason text, at_ms bigint)
    where e.kind in ('paused', 'resumed', 'kill_engaged', 'kill_released')
), stretches as (
    select
        *, lead(epoch) over w as end_epoch, lead(ms) over w as end_ms, lead(seq) over w as end_seq, lead(at) over w as end_at
    from switched
    window w as (partition by partition, what order by epoch, ms, seq)
), counted as (
    select
        s.what, s.reason, s.began_ms, s.at, s.end_at,
        (
            select count(*)
            from events as e cross join json_to_record(e.body) as b (code text)
            where e.partition = s.partition and e.kind in ('redeemed', 'held')
                and (e.epoch, e.ms, e.seq) > (s.epoch, s.ms, s.seq)
                and (s.end_epoch is null or (e.epoch, e.ms, e.seq) < (s.end_epoch, s.end_ms, s.end_seq))
                and (
                    s.what in ('*', 'campaign:' || e.campaign_id, 'code:' || b.code)
                    or exists (
                        select from campaigns as c
                        where c.id = e.campaign_id and s.what like 'label:%'
                            and c.definition -> 'labels' ? substr(s.what, 7)
                    )
                )
        ) as taken
    from stretches as s
    where s.stops
)
select what, min(reason) as reason, min(at) as began_at, case when count(end_at) = count(*) then max(end_at) end as ended_at,
    sum(taken)::bigint as taken
from counted
group by what, began_ms
order by began_at desc, what
limit $1;

-- name: engaged_switches
-- Kill switches that are engaged by some partition's last word: what was engaged or released half way counts as engaged.
select distinct on (scope) scope, reason, at_ms from kill_switches where is_engaged order by scope, at_ms;

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

-- name: create_api_key
-- A key for a caller.
insert into api_keys (id, name, roles, secret_hash, expires_at) values ($1, $2, $3, $4, $5);

-- name: list_api_keys
-- Every key there ever was, oldest first; with true for $1 only those that were not revoked.
select id, name, roles, secret_hash, created_at, expires_at, revoked_at
from api_keys
where not $1 or revoked_at is null
order by created_at, id;

-- name: revoke_api_key
-- Ends a key; the first time stands. Answers nothing when there is no such key.
update api_keys set revoked_at = coalesce(revoked_at, now()) where id = $1
returning id;

-- name: api_keys_version
-- Differs whenever a key was created or revoked, also when the database was put back to an older copy in between.
select concat_ws(' ', count(*), count(revoked_at), max(greatest(created_at, revoked_at)))
from api_keys;
