"""Conversations kept between calls, where the operator allows it."""
