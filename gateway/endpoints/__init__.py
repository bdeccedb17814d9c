"""One file per public path."""
