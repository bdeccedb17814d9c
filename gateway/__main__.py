"""`aidock` and `python -m gateway`."""

from __future__ import annotations

from gateway.cli import aidock


def main() -> None:
    """Run the command line."""
    aidock(prog_name="aidock")


if __name__ == "__main__":
    main()
