-- Definitions of campaigns.

-- name: create_campaign
-- Answers nothing when the id is taken.
insert into campaigns (id, definition) values ($1, $2)
on conflict do nothing
returning id, version, definition, created_at;

-- name: update_campaign
-- Puts a definition in the place of version $3, or of any version with null for $3, and answers that one, too. Answers
-- nothing when there is no such campaign, or it is at another version.
with old as (
    select definition from campaigns where id = $1 and version = coalesce($3, version) for update
)
update campaigns as c set definition = $2, version = c.version + 1
from old
where c.id = $1
returning c.id, c.version, c.definition, c.created_at, old.definition as old_definition;

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

-- name: mark_published
-- Notes that the gate has a version of a definition. A later one that is noted already stands.
update campaigns set published_version = $2
where id = $1 and published_version < $2 and version >= $2;
