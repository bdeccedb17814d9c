"""Counters with two-phase use."""
