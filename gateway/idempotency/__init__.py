"""Calls that are made once, however often a client repeats them under the same Idempotency-Key."""
