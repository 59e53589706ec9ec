"""How fast, beside what: `make bench` compares, `make load` sends what shops send. See docs/performance.md."""
