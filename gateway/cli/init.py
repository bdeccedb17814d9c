"""`aidock init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.cli._shared import closest, fail, note
from gateway.paths import config_file


def _presets() -> dict[str, Path]:
    """The file with every option, and the examples, by name."""
    return {"demo": config_file("aidock.yaml")} | {
        path.stem: path for path in sorted(config_file("examples").glob("*.yaml"))
    }


@click.command()
@click.option("--preset", default="demo", show_default=True, help="Where to start from; --list shows them.")
@click.option("--list", "listing", is_flag=True, help="Show the presets.")
@click.option("--output", default="aidock.yaml", show_default=True, type=click.Path(path_type=Path, dir_okay=False))
def command(preset: str, listing: bool, output: Path) -> None:
    """Write a commented configuration to start from. Never overwrites a file."""
    presets = _presets()
    if listing:
        click.echo("\n".join(presets))
        return
    if preset not in presets:
        fail(f"There is no preset '{preset}'.{closest(preset, presets)} There are: {', '.join(presets)}.", 2)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(presets[preset].read_text(encoding="utf-8"))
    except FileExistsError:
        fail(f"{output} is there already and stays as it is. Name another with --output.", 1)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}.", 1)
    note(f"Wrote {output}. Check it with: aidock config check {output}   Start with: aidock serve --config {output}")
    sys.exit(0)
