-- Definitions of campaigns.

-- name: create_campaign
-- Answers nothing when the id is taken.
insert into campaigns (id, definition, state) values ($1, $2, $3)
on conflict do nothing
returning id, version, definition, created_at, state;

-- name: update_campaign
-- Puts a definition in the place of the one that stands.
update campaigns set definition = $2, version = version + 1
where id = $1
returning id, version, definition, created_at, state;

-- name: lock_campaign
-- A definition by its id, which nobody else changes until the end of the transaction.
select id, version, definition, created_at, state
from campaigns
where id = $1
for no key update;

-- name: get_campaign
-- A definition by its id.
select id, version, definition, created_at, state
from campaigns
where id = $1;

-- name: list_campaigns
-- A page of the listing, newest first, from behind (created_at $2, id $3) on; with null for $2 from the newest. Without
-- $4 those that are archived are left out; $5 is the only state wanted now, and $6 the label, null for any.
select c.id, c.version, c.definition, c.created_at, c.state
from campaigns as c
cross join lateral (
    select
        (c.definition ->> 'start_time_ms')::bigint as start_ms, (c.definition ->> 'end_time_ms')::bigint as end_ms,
        extract(epoch from now()) * 1000 as now_ms
) as t
where (c.created_at, c.id) < (coalesce($2::timestamptz, 'infinity'), $3)
    and ($4 or c.state <> 'archived')
    and ($6::text is null or c.definition -> 'labels' ? $6)
    and (
        $5::text is null
        or $5 = case
            when c.state <> 'active' then c.state
            when t.now_ms >= t.end_ms then 'ended'
            when t.now_ms < t.start_ms then 'scheduled'
            else 'active'
        end
    )
order by created_at desc, id desc
limit $1;

-- name: unpublished
-- A page of the campaigns whose definition the gate may not have, by id, from behind $2 on.
select id, version, definition, created_at, state
from campaigns
where published_version < version and id > $2
order by id
limit $1;

-- name: mark_published
-- Notes that the gate has a version of a definition. A later one that is noted already stands.
update campaigns set published_version = $2
where id = $1 and published_version < $2 and version >= $2;
