"""The command line: one file per command group, imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

from gateway import __version__

_COMMANDS = {
    "serve": "Run the gateway.",
    "init": "Write a commented aidock.yaml to start from.",
    "config": "Check and show the configuration.",
    "departments": "Who pays.",
    "users": "Who calls.",
    "keys": "API keys.",
    "quotas": "How much of what.",
    "routes": "Where calls go, and where they go next.",
    "usage": "What was used.",
    "prices": "What tokens cost, and what past calls would cost now.",
    "reconcile": "Compare the books: counters, ledger, sums, prices and journals.",
    "connect": "Print what a client needs to use this gateway.",
    "migrate": "Bring the database to this release.",
    "backup": "Write everything to one file.",
    "restore": "Fill an empty database from such a file.",
}

_EXAMPLES = """\b
Start:       aidock serve
A colleague: aidock departments create research
             aidock users create ada@example.com --department research
             aidock keys create --user ada@example.com --expires 90d
A budget:    aidock quotas set department research cost 200 month
A report:    aidock usage --by department,model --from 2026-11-01

Every command takes --config FILE (or AIDOCK_CONFIG); without one it works on the data in ./aidock-data (AIDOCK_DATA).
Exit codes: 0 fine, 1 it ran and the answer is no, 2 wrong usage, 78 bad configuration."""


class LazyGroup(click.Group):
    """Knows its commands by name and imports one only to run it, which keeps `--version` and `--help` quick."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"gateway.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="aidock %(version)s")
def aidock() -> None:
    """AI Dock: an LLM gateway whose books agree."""
