"""vouchsafe: the voucher service that checkouts trust."""

__version__ = "0.1.0"
