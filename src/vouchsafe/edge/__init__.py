"""gRPC: every method converts, calls its use case, and converts back."""
