"""One file per rule about calls."""
