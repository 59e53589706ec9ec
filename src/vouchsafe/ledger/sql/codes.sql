-- Codes, and the operations that generate them.

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
