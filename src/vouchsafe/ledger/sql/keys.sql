-- API keys.

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
-- Ends a key; the first time stands. Answers its name, and whether it was good until now; nothing when there is no such
-- key.
with revoked as (
    update api_keys set revoked_at = now() where id = $1 and revoked_at is null
    returning id
)
select name, exists(select from revoked) as is_new from api_keys where id = $1;

-- name: api_keys_version
-- Differs whenever a key was created or revoked, also when the database was put back to an older copy in between.
select concat_ws(' ', count(*), count(revoked_at), max(greatest(created_at, revoked_at)))
from api_keys;
