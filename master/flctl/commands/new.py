"""`flctl new`: a method of one's own to begin with, and an experiment that runs it."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from protocol.errors import InputError

_TEMPLATES = Path(__file__).parent.parent / "templates"


@click.command(name="new")
@click.argument("name", default="my_algorithm")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to write them.")
def command(*, name: str, folder: Path) -> None:
    """Writes NAME.py, a working method to change, and NAME.toml (experiment.toml for the default), which runs it.

    \b
      flctl new my_method && flctl check my_method.py && flmaster my_method.toml
    """
    stem = name.removesuffix(".py").replace("-", "_")
    if not stem.isidentifier() or keyword.iskeyword(stem):
        raise InputError(f'"{name}" cannot name a Python file; take letters, digits and underscores')
    method = folder / f"{stem}.py"
    experiment = folder / ("experiment.toml" if stem == "my_algorithm" else f"{stem}.toml")
    for path in (method, experiment):
        if path.exists():
            raise InputError(f"{path} exists and is not overwritten; choose another NAME or --folder")
    folder.mkdir(parents=True, exist_ok=True)
    class_name = re.sub(r"(?:^|_)+(\w)", lambda match: match[1].upper(), stem)
    for path, template in ((method, "my_algorithm.py"), (experiment, "experiment.toml")):
        text = (_TEMPLATES / template).read_text(encoding="utf-8")
        text = text.replace("my_algorithm", stem).replace("MyAlgorithm", class_name)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    click.echo(f"wrote {method} and {experiment}; now try\n  flctl check {method}\n  flmaster {experiment}")
