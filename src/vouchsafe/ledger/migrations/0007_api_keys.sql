-- The keys that let callers in. A row is never deleted, and changes once: when the key is revoked.
create table api_keys (
    id text primary key,
    -- Who the caller is: two keys of one name are the same principal, so that one can take the other's place.
    name text not null,
    roles text[] not null,
    -- SHA-256 of the secret, which has 256 bits of chance and so needs no slower hash.
    secret_hash bytea not null check (length(secret_hash) = 32),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
