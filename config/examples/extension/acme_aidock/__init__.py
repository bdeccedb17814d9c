"""What Acme adds to AI Dock."""
