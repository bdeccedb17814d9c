"""What a call costs, measured beside nginx doing the same. Run `python -m bench`; see README.md."""
