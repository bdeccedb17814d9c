"""Configuration: parsed, checked, compiled, watched."""
