"""The gate: Valkey decides. Every decision is one call of a Lua function that checks all and then writes."""
