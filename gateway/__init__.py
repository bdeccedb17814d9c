"""AI Dock: an LLM gateway whose books agree."""

__version__ = "0.1.0"
