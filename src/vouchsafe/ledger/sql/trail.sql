-- What operators did.

-- name: note_actions
-- Appends actions, column by column, in their order; those that are there already are left out. The last of its
-- transaction.
select append_audit_event(
    coalesce(n.at, now()), n.principal, n.action, n.target, n.before, n.after, n.reason, n.action_id
)
from (
    select *
    from unnest(
        $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::json[], $6::json[], $7::text[], $8::text[]
    ) with ordinality as told (at, principal, action, target, before, after, reason, action_id, place)
    order by place
) as n;

-- name: list_audit_events
-- A page of actions, newest first, from before number $1 on; filters are added to its condition (ledger/trail.py).
select number, at, principal, action, target, before, after, reason, action_id, hash
from audit_events
where number < $1
order by number desc
limit $2;

-- name: audit_head
-- Where the chain ends.
select number, hash from audit_head;

-- name: walk_audit_events
-- The whole chain, with every field as the hash is over it.
select
    number,
    array[
        number::text, trunc(extract(epoch from at) * 1000000)::text, principal, action, target, before::text, after::text,
        reason, action_id
    ] as fields,
    prev_hash, hash
from audit_events
order by number;
