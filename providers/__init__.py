"""One file per dialect that upstreams speak."""
