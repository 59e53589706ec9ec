"""What a voucher means, as plain values: no I/O, no asyncio, no clock."""
