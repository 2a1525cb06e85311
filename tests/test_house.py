"""The rules of the house that no linter knows: sizes, names, what may never be called, where a URL may lead."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("protocol", "compressors", "fl_core", "algorithms", "master", "worker", "deploy")
CODE = (*PACKAGES, "examples", "benchmarks")

LONGEST_FILE, LONGEST_TEST_FILE, LONGEST_FUNCTION = 400, 500, 60
LONGER: dict[str, str] = {}
"""Files that may be longer, each with its reason."""

VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
FOREIGN_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
RUNS_TEXT = {"eval", "exec"}
TORCH_PICKLES = {("torch", "load"), ("torch", "save")}
KNOWN_HOSTS = {"arxiv.org", "doi.org", "keepachangelog.com", "semver.org", "www.apache.org", "github.com", "www.w3.org"}
TEXTS = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".service", ""}


def files(*folders: str) -> list[Path]:
    """The Python files of these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def shown(path: Path) -> str:
    """Its name below the root."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """The file, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_go_one_way() -> None:
    """The contract in pyproject.toml holds: no room imports one above it, and protocol no torch."""
    linter = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "0 broken" in checked.stdout


def test_protocol_and_help_do_without_torch() -> None:
    """Loading all of protocol and both command lines imports no torch: `--help` answers at once."""
    protocol = [f"protocol.{path.stem}" for path in files("protocol") if path.stem != "__init__"]
    script = f"import sys, {', '.join(protocol)}, master.cli, worker.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_files_are_short() -> None:
    """No file outgrows its limit: one that does is two rooms."""
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files(*CODE, "tests")}
    limits = {name: LONGEST_TEST_FILE if name.startswith("tests/") else LONGEST_FILE for name in lengths}
    assert not {name: n for name, n in lengths.items() if n > limits[name] and name not in LONGER}


def test_functions_are_short() -> None:
    """No function of the code outgrows its limit."""
    lengths = {
        f"{shown(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files(*CODE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION}


def test_names_are_of_the_domain() -> None:
    """No module or folder has a name that anything could be put under."""
    names = {part for path in files(*CODE) for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not {name for name in names if VAGUE & set(name.strip("_").split("_"))}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed(package: str) -> None:
    """Each package carries py.typed, so that mypy reads our types in a user's project."""
    assert (ROOT / package / "py.typed").is_file()


def forbidden(module: ast.Module) -> Iterator[str]:
    """What in a module would run foreign text or objects."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FOREIGN_CODE)
        elif isinstance(node, ast.ImportFrom):
            names = {("torch", alias.name) for alias in node.names if node.module == "torch"}
            yield from (f"torch.{name}" for _, name in names & TORCH_PICKLES)
            source = node.module or ""
            yield from [source] if source.split(".")[0] in FOREIGN_CODE else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from [f"torch.{node.attr}"] if (node.value.id, node.attr) in TORCH_PICKLES else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from [node.func.id] if node.func.id in RUNS_TEXT else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield from [] if isinstance(node.value, ast.Constant) and node.value.value is False else ["allow_pickle"]


def test_no_foreign_code_is_run() -> None:
    """No pickle, eval, exec or torch.load anywhere in the code; what comes over the wire or lies on disk is data."""
    found = [f"{shown(path)}: {what}" for path in files(*CODE) for what in forbidden(tree(path))]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from pickle import loads", "import joblib.memory", "from torch import load"),
        *("torch.load(f)", "x = torch.save", "eval('1')", "exec(text)", "numpy.load(f, allow_pickle=True)"),
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    """Each forbidden form is found, so the test above can fail."""
    assert list(forbidden(ast.parse(text)))


def test_model_eval_is_no_eval() -> None:
    """A module's own method of that name is not what is forbidden."""
    assert not list(forbidden(ast.parse("model.eval(); spec.loader.exec_module(m); load(f, allow_pickle=False)")))


def unknown_places(text: str) -> list[str]:
    """Hosts that a text names and the project does not cite, and options that name an index."""
    hosts = re.findall(r"\w+://(?:[^/\s@]+@)?((?:[\w-]+\.)+[a-z]{2,})", text)
    options = re.findall(r"--(?:extra-)?index-url|--find-links", text)
    return [host for host in hosts if host not in KNOWN_HOSTS] + options


def test_urls_lead_to_known_places() -> None:
    """No text of the project names a host but those it cites: no package registry, no model hub, no data server."""
    paths = [path for path in ROOT.iterdir() if path.is_file() and path.name != "LICENSE"]
    for folder in (*CODE, "tests", "docs", ".ci"):
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in TEXTS]
    own = Path(__file__).resolve()
    texts = {shown(path): path.read_text(encoding="utf-8", errors="replace") for path in paths if path != own}
    found = {name: unknown_places(text) for name, text in texts.items()}
    assert not {name: places for name, places in found.items() if places}


@pytest.mark.parametrize("text", ["https://elsewhere.example/simple", "ftp://u@h.example", "pip --index-url x"])
def test_an_unknown_place_is_found(text: str) -> None:
    """The search of the test above finds what it looks for."""
    assert unknown_places(f"see https://arxiv.org/abs/1, then {text}") != []
