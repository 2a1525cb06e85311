"""What the README tells people to type exists, and what it shows is what is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TASKS = ("demo", "test", "lint", "bench", "docs", "setup")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


OURS = ("flmaster", "flworker", "flctl")
THEIRS = ("systemctl", "sbatch", "docker", "kubectl", "curl", "pip", "python", "sudo")


def commands() -> Iterator[list[str]]:
    """Every command line in a shell block of the documents, as words."""
    for path in DOCUMENTS:
        for block in blocks(path.read_text(encoding="utf-8"), "sh"):
            yield from (words for line in block.splitlines() if (words := shlex.split(line, comments=True)))


def parsed(words: list[str]) -> click.Context:
    """A command line of ours as click reads it, without running it. Raises click.UsageError."""
    (script,) = entry_points(group="console_scripts", name=words[0])
    command: click.Command = script.load()
    if not isinstance(command, click.Group):
        return command.make_context(words[0], words[1:])
    group = click.Context(command, info_name=words[0])
    name, found, rest = command.resolve_command(group, words[1:])
    assert found is not None, name
    return found.make_context(name, rest, parent=group)


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script `run` in a folder, called from elsewhere."""
    return subprocess.run(
        [str(folder / "run"), *words],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the script and the requirements, and an environment that is complete as far as it can tell."""
    for name in ("run", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(shutil.which("true") or "/bin/true")
    requirements = (tmp_path / "pyproject.toml").read_text().partition("[tool.ruff]\n")[0]
    (tmp_path / ".venv" / "flspan-set-up").write_text(f"{tmp_path}\n{requirements}")
    return tmp_path


@pytest.fixture
def no_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the tools the script needs and no Python: on it, a set-up can only fail."""
    folder = tmp_path_factory.mktemp("bin")
    for tool in ("sh", "dirname", "sed", "cmp", "head", "cat", "rm"):
        (folder / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    return str(folder)


def test_the_algorithm_shown_is_the_example() -> None:
    """The README's one Python block is examples/my_algorithm.py, whole."""
    assert blocks(README, "python") == [(ROOT / "examples" / "my_algorithm.py").read_text(encoding="utf-8")]


def test_every_command_line_parses() -> None:
    """Commands, subcommands and options in the documents exist, and the files they name too."""
    seen = set()
    for words in commands():
        seen.add(words[0])
        if words[0] == "./run":
            assert words[1] in TASKS
        elif words[0] in OURS:
            parsed(words)
        else:  # another program's: the engines that daemons run under
            assert words[0] in THEIRS, words
        assert all((ROOT / word).exists() for word in words if word.startswith("examples/"))
    assert {"./run", "flmaster", "flworker", "flctl"} <= seen


def test_a_command_line_that_is_wrong_does_not_parse() -> None:
    """The test above can fail: an option that does not exist is an error."""
    with pytest.raises(click.UsageError, match="No such option"):
        parsed(["flmaster", "--spwan", "2", "examples/digits.toml"])


def test_links_lead_somewhere() -> None:
    """Every relative link of a document names a file that is there."""
    for path in DOCUMENTS:
        links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
        assert not [link for link in links if "://" not in link and not (path.parent / link).exists()], path


def test_the_tasks_are_those_of_the_makefile() -> None:
    """`make X` is `./run X`, and `./run` alone lists them all."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^(\w+): ; ./run (\w+)$", makefile, flags=re.MULTILINE) == [(task, task) for task in TASKS[:5]]
    listed = run(ROOT)
    assert listed.returncode == 2
    assert [line.split()[1] for line in listed.stdout.splitlines() if "./run" in line] == list(TASKS)


def test_an_unknown_task_is_refused() -> None:
    """A mistyped task sets nothing up, and the line says which there are."""
    answer = run(ROOT, "tset")
    assert answer.returncode == 2
    assert answer.stderr == 'flspan: there is no "./run tset"; there are demo, test, lint, bench, docs and setup\n'


def test_a_complete_environment_needs_nothing(clone: Path, no_python: str) -> None:
    """Set up once, the script asks for no Python and no network, from whatever folder it is called."""
    answer = run(clone, "setup", PATH=no_python)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_tool_s_option_is_no_reason_to_install(clone: Path, no_python: str) -> None:
    """A change of what ruff or pytest are told leaves the environment as it is."""
    with (clone / "pyproject.toml").open("a") as file:
        file.write("[tool.somewhat]\nmore = true\n")
    assert run(clone, "setup", PATH=no_python).returncode == 0


@pytest.mark.parametrize("change", ["requirement", "place", "unfinished"])
def test_what_changed_is_set_up_again(clone: Path, no_python: str, change: str) -> None:
    """A new requirement, a folder that was moved, a set-up that was cut short: each is set up anew."""
    place = clone
    if change == "requirement":
        text = (clone / "pyproject.toml").read_text()
        (clone / "pyproject.toml").write_text(text.replace('"click>=', '"one-more",\n  "click>='))
    elif change == "place":
        place = clone.with_name("moved")
        clone.rename(place)
    else:
        (clone / ".venv" / "flspan-set-up").unlink()
    answer = run(place, "setup", PATH=no_python)
    assert answer.returncode == 2
    assert answer.stderr.startswith("flspan: there is no Python 3.11 or newer")
