"""The use cases: what needs both the gate, which decides, and the ledger, which remembers."""
