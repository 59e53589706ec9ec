"""The ledger: PostgreSQL remembers. Append-only events, and the current state drawn from them."""
