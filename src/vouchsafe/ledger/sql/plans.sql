-- Planned changes of campaigns.

-- name: plan_changes
-- Plans changes of a campaign ($1), column by column: when, and what; $4 is the plan.
insert into planned_changes (campaign_id, due_at, change, plan)
select $1, p.due_at, p.change, $4
from unnest($2::timestamptz[], $3::jsonb[]) with ordinality as p (due_at, change, number)
order by p.number
returning *;

-- name: replace_plans
-- Cancels what is still planned for a campaign, but for the end of a pause.
update planned_changes set state = 'cancelled', note = 'replaced by another schedule', ended_at = now()
where campaign_id = $1 and state = 'planned' and not of_pause;

-- name: cancel_plan
-- Cancels a change that is still planned and not the end of a pause; answers nothing when it is not.
update planned_changes set state = 'cancelled', note = $2, ended_at = now()
where id = $1 and state = 'planned' and not of_pause
returning *;

-- name: get_plan
-- A planned change by its id.
select * from planned_changes where id = $1;

-- name: list_plans
-- A page of planned changes, of a campaign ($2) or with null of all, from $3 to before $4, by their times, from behind
-- ($5, $6) on.
select *
from planned_changes
where campaign_id = coalesce($2, campaign_id) and due_at >= $3 and due_at < $4 and (due_at, id) > ($5, $6)
order by due_at, id
limit $1;

-- name: due_plans
-- Of campaigns with ids behind $2, at most $1, the change that is to be applied first, if its time has come; and whether
-- the gate has the definition that stands, and when the change's plan resumes the campaign next, null for never.
select distinct on (p.campaign_id)
    p.*, coalesce(c.published_version = c.version, false) as is_published,
    (
        select min(n.due_at)
        from planned_changes as n
        where n.campaign_id = p.campaign_id and n.state = 'planned' and n.plan = p.plan and n.change ->> 'type' = 'resume'
    ) as pause_end_at
from planned_changes as p left join campaigns as c on c.id = p.campaign_id
where p.state in ('planned', 'applying') and p.due_at <= now() and p.campaign_id > $2
order by p.campaign_id, p.state = 'planned', p.due_at, p.id
limit $1;

-- name: next_plan
-- In how many seconds the next change is due that is not yet; null for never.
select extract(epoch from min(due_at) - now())::float8 from planned_changes where state = 'planned' and due_at > now();

-- name: begin_turn
-- A change ($1) of a campaign ($2) is applied from now on and cannot be cancelled any more; answers its turn, or nothing
-- when it is not planned (any more). Behind the campaign's lock, so that turns grow in the order in which they are taken.
with locked as (
    select id from campaigns where id = $2 for no key update
)
update planned_changes set state = 'applying', turn = nextval('planned_turns')
where id = $1 and state = 'planned' and exists (select from locked)
returning turn;

-- name: mark_plan_applied
-- Notes that a change which is planned is applied in this transaction; answers nothing when it is not planned (any more).
update planned_changes set state = 'applied', ended_at = now()
where id = $1 and state = 'planned'
returning campaign_id;

-- name: fail_plan
-- A change that cannot be applied will not be.
update planned_changes set state = 'failed', note = $2, ended_at = now()
where id = $1 and state in ('planned', 'applying')
returning id;

-- name: skip_plan
-- Cancels a change that was begun already; answers nothing when it is not being applied (any more).
update planned_changes set state = 'cancelled', note = $2, ended_at = now()
where id = $1 and state = 'applying'
returning *;

-- name: measure_plans
-- How many seconds the oldest change that is due is late, and how many have failed.
select
    coalesce(
        (select extract(epoch from now() - min(due_at)) from planned_changes where state in ('planned', 'applying')), 0
    )::float8 as late_s,
    (select count(*) from planned_changes where state = 'failed') as failed;
