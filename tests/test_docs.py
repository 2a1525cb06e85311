"""The documentation holds: the tutorial is run, messages are those of the source, files and tests named exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import until

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
PACKAGES = ("protocol", "compressors", "fl_core", "algorithms", "master", "worker", "deploy")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (?P<name>\S+\.(?:toml|py))(?P<more>, at its end)?$")


_CUT_SHORT = {"./run demo": " --set rounds=3", "./run test": " -n 0 -p no:cacheprovider tests/protocol/test_states.py"}


# --- the tutorial ----------------------------------------------------------------------------------------------------


class Reader:
    """Does what the tutorial says: files are written, commands typed, in a folder without anything else.

    Cut short: the demo runs three rounds, the tests are those of one file. gpu1 and gpu2 are two workers on this
    machine, on ports that are free.
    """

    def __init__(self, folder: Path) -> None:
        self.said = ""
        self._flspan, self._own = folder / "flspan", folder / "own"
        self._place = self._flspan
        self._workers: list[subprocess.Popen[bytes]] = []
        self._addresses: list[str] = []
        self._clone()
        self._own.mkdir()

    def _clone(self) -> None:
        """A folder with flspan's files and an environment that is set up: the one that runs this test."""
        self._flspan.mkdir()
        for name in (*PACKAGES, "examples", "tests"):
            (self._flspan / name).symlink_to(ROOT / name)
        for name in ("run", "pyproject.toml"):
            shutil.copy(ROOT / name, self._flspan / name)
        (self._flspan / ".venv").mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.name != "flspan-set-up":
                (self._flspan / ".venv" / path.name).symlink_to(path)
        required = (ROOT / "pyproject.toml").read_text().partition("[tool.ruff]\n")[0]
        (self._flspan / ".venv" / "flspan-set-up").write_text(f"{self._flspan}\n{required}")

    def does(self, language: str, block: str) -> None:
        """One block of code."""
        named = _FILE.match(block.splitlines()[0])
        if language == "sh":
            for line in block.splitlines():
                self._types(line.partition(" #")[0].strip())
        elif language == "text":
            assert block in self.said
        else:
            assert named, f"a block that is neither a command nor a file: {block}"
            self._place = self._own
            with (self._own / named["name"]).open("a" if named["more"] else "x", encoding="utf-8") as file:
                file.write(block)

    def _types(self, line: str) -> None:
        line += _CUT_SHORT.get(line, "")
        if line.startswith("flworker "):
            self._starts_workers(line.replace("--host 0.0.0.0 --port 7000", "--host 127.0.0.1 --port 0"))
            return
        for number, address in enumerate(self._addresses, start=1):
            line = line.replace(f"gpu{number}:7000", address)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self._place,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        self.said = done.stdout

    def _starts_workers(self, line: str) -> None:
        for number in (1, 2):
            log = self._own / f"gpu{number}.txt"
            with log.open("wb") as file:
                command = ["bash", "-c", f"exec {line} --devices cpu --threads-per-device 1"]
                worker = subprocess.Popen(command, cwd=self._own, env=self._environment(), stdout=file, stderr=file)
            self._workers.append(worker)
            self._addresses.append(_address(log))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def stops(self) -> None:
        """The workers are ended."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()


def _address(log: Path) -> str:
    """Where a worker says it listens."""
    said = until(lambda: re.search(r"listening on (\S+)\n", log.read_text()), "a worker that listens")
    return str(said[1])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody who begins with the tutorial."""
    somebody = Reader(tmp_path)
    yield somebody
    somebody.stops()


@pytest.mark.soak
@pytest.mark.net
@pytest.mark.timeout(600)
def test_the_tutorial_works(reader: Reader, tmp_path: Path) -> None:
    """Every command and file of the tutorial, in order: two methods, three seeds, the same bytes near and far."""
    for language, block in _BLOCK.findall((DOCS / "tutorial.md").read_text(encoding="utf-8")):
        reader.does(language, block)
    assert "the numbers are the same, bit for bit" in reader.said
    for name in ("compared", "far"):
        assert len(list((tmp_path / "own" / name).glob("*/*/model.safetensors"))) == 6


def written(page: str, folder: Path) -> Path:
    """The file of a page's one whole example."""
    blocks = [block for language, block in _BLOCK.findall((DOCS / page).read_text("utf-8")) if language == "python"]
    ((name, text),) = [(match["name"], block) for block in blocks if (match := _FILE.match(block.splitlines()[0]))]
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def command_line(module: str, *arguments: str, folder: Path) -> str:
    """What a command says that ends well."""
    code = f"import sys; from {module} import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_compressor_of_the_guide_keeps_the_contract(tmp_path: Path) -> None:
    """`flctl check` finds nothing wrong with it, and its delta holds."""
    said = command_line("master.flctl", "check", written("writing-a-compressor.md", tmp_path).name, folder=tmp_path)
    assert "ok\tcontraction (delta)" in said


def test_the_model_of_the_guide_learns(tmp_path: Path) -> None:
    """With its BatchNorm and its dropout, the last batch of an epoch being smaller: 3 rounds of digits."""
    model = written("models-and-data.md", tmp_path).name
    (tmp_path / "m.toml").write_text(
        f"""rounds = 3
        data = {{ name = "digits", partition = "iid" }}
        model = {{ name = "{model}" }}
        clients = {{ total = 5 }}
        local = {{ epochs = 2, batch_size = 32, optimizer = {{ name = "sgd", lr = 0.1 }} }}
        algorithm = "fedavg"
        evaluate = {{ metrics = ["f", "accuracy"] }}"""
    )
    said = command_line("master.cli", "--no-dashboard", "--devices", "cpu", "m.toml", folder=tmp_path)
    losses = re.findall(r"^round .*?  f (\S+)", said, flags=re.MULTILINE)
    assert float(losses[-1]) < 0.5 * float(losses[0])


# --- messages --------------------------------------------------------------------------------------------------------


def _spelled(node: ast.AST) -> str:
    """A string of the source, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)  # type: ignore[misc]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.fixture(scope="module")
def strings() -> list[str]:
    """Every string in the source that is no docstring, as a message of it reads; and the lines of ./run."""
    found = (ROOT / "run").read_text(encoding="utf-8").splitlines()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        found += [text for node in nodes if id(node) not in docstrings and (text := _spelled(node))]
    return found


def told(page: str) -> list[str]:
    """The messages a page explains: the code in the first column of its tables."""
    rows = re.findall(r"^\| (`.*?`) \|", page, flags=re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_messages_explained_are_messages_there_are(strings: list[str]) -> None:
    """Each message in the table of troubleshooting is one that the source can say, with … for what is filled in."""
    messages = told((DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    assert len(messages) > 50
    for message in messages:
        pieces = [piece for piece in re.split(r"\s*…\s*", message) if piece]
        pattern = re.compile(".*".join(map(re.escape, pieces)))
        assert any(pattern.search(text) for text in strings), message


def test_a_message_that_is_not_there_is_noticed(strings: list[str]) -> None:
    """The test above can fail."""
    assert told("| `no such message` | why | what |") == ["no such message"]
    assert not any("no such message" in text for text in strings)


# --- what pages name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_tests_and_files_named_are_there(page: Path) -> None:
    """A path in code, of a test or of the source, exists; so does the function after `::`."""
    named = re.findall(r"`((?:tests|protocol|chaos|fl_core|master|worker|compressors|algorithms|deploy)/[^`\s]*)`",
                       page.read_text(encoding="utf-8"))  # fmt: skip
    for text in named:
        name, _, function = text.partition("::")
        places = [place for place in (ROOT / name, ROOT / "tests" / name) if place.exists()]
        assert places or "*" in name or "<" in name, text  # a pattern names what is not there yet
        if function:
            assert f"def {function.rstrip('…')}" in places[-1].read_text(encoding="utf-8"), text


def test_every_page_is_in_the_table_of_contents() -> None:
    """Somebody who begins at the index comes by every page."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    toctrees = re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
    listed = {line.split("<")[-1].rstrip(">").strip() for tree in toctrees for line in tree.splitlines()}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES}
    assert pages - {"index"} <= listed


# --- how they are built ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    """docs/conf.py."""
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("[a](../README.md)", "[a](readme.md)"),
        ("[a](metrics.md#unit)", "[a](metrics.md#unit)"),
        ("[a](https://arxiv.org/x)", "[a](https://arxiv.org/x)"),
        ("[systemd](../deploy/systemd)", "systemd (`deploy/systemd/`)"),
        ("[`deploy/slurm`](../deploy/slurm)", "`deploy/slurm/`"),
        ("[f](../examples/my_algorithm.py)", "[f](../examples/my_algorithm.py)"),
    ],
)
def test_links_that_leave_the_folder(conf: Any, given: str, made: str) -> None:
    """A page of the root is a page here, a folder is named, and all else is left alone."""
    assert conf.translated(given, DOCS, DOCS / "index.md") == made


def test_links_of_the_readme(conf: Any) -> None:
    """They are relative to the root there, and to docs/ here."""
    assert conf.translated("[a](docs/metrics.md)", ROOT, DOCS / "readme.md") == "[a](metrics.md)"


def test_docstrings_are_plain_english(conf: Any) -> None:
    """|x|, * and x_ are themselves, `code` is code, roles stay, and an indented formula is a literal block."""
    assert conf.marked_up("|x| * y_ is `a|b*`, see :mod:`~protocol.frames`") == (
        r"\|x\| \* y\_ is ``a|b*``, see :mod:`~protocol.frames`"
    )
    lines = [
        "Steps.",
        "",
        "    x = x - |g|",
        "",
        "Args:",
        "    x: of |x|.",
        "",
        "A",
        "└── B",
        "",
        "a: *",
        "b: c",
        "  d",
    ]
    conf.process_docstring(None, "function", "f", None, None, lines)
    text = "\n".join(lines)
    assert text.startswith(
        "Steps.\n\n::\n\n        x = x - |g|\n\nArgs:\n    x: of \\|x\\|.\n\n::\n\n    A\n    └── B\n"
    )
