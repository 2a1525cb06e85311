"""Plug-ins as files: ours found by listing folders, hers imported under a name of their own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fl_core import plugins
from fl_core.errors import InputError, PlugInError, UserCodeError
from fl_core.experiment.schema import SourceFile

HOUSE = Path(plugins.__file__).parents[1]


def test_names_are_the_files_of_a_folder() -> None:
    """Every plug-in file is listed, and files beside them that hold none are not."""
    assert plugins.names("model")[:3] == ["cnn", "linear", "logistic"]
    assert {"digits", "fashion-mnist"} <= set(plugins.names("dataset"))
    assert "roots" not in plugins.names("dataset")
    partitions = {"by-class", "dirichlet", "iid", "natural", "quantity-skew", "shards", "sorted"}
    assert set(plugins.names("partition")) == partitions
    assert "fedavg" in plugins.names("algorithm")
    assert "identity" in plugins.names("compressor")
    assert "compressor" not in plugins.names("compressor")
    assert {"grad_norm", "bits_up"} <= set(plugins.names("metric"))


@pytest.mark.parametrize("kind", list(plugins.FOLDERS))
def test_every_name_resolves(kind: str) -> None:
    """What is listed can be had, under hyphens and underscores alike."""
    for name in plugins.names(kind):
        assert plugins.resolve(kind, name) is plugins.resolve(kind, name.replace("-", "_").upper())


@pytest.mark.parametrize("name", ["digitz", "roots", "../digits", "__init__", "", "os.path"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """No name reaches a module that is no plug-in of its kind."""
    with pytest.raises(PlugInError, match=r'^there is no dataset ".*"; (did you mean|there are)'):
        plugins.module("dataset", name)


def test_a_user_s_module_is_hers_alone(tmp_path: Path) -> None:
    """A file called random.py is imported by path and shadows nothing; the same text is imported once."""
    source = SourceFile.of("data", "random.py", "import random\n\ndef load():\n    return random.choice\n")
    load = plugins.resolve("dataset", "random.py", [source], tmp_path)
    import random

    assert load() == random.choice
    assert plugins.user_module(source, tmp_path) is sys.modules[f"flspan_user_{source.sha256[:16]}"]
    assert (tmp_path / source.sha256[:16] / "random.py").read_text(encoding="utf-8") == source.text


def test_a_module_that_raised_is_not_kept(tmp_path: Path) -> None:
    """A failed import leaves no half-made module behind, and fails again with her line."""
    source = SourceFile.of("model", "m.py", "x = 1\nraise RuntimeError('no')\n")
    for _ in range(2):
        with pytest.raises(UserCodeError, match=r"m\.py:2: RuntimeError: no$"):
            plugins.user_module(source, tmp_path)
    assert f"flspan_user_{source.sha256[:16]}" not in sys.modules


def test_a_file_without_the_function_says_which(tmp_path: Path) -> None:
    """A data file needs load(), a model file build()."""
    source = SourceFile.of("model", "m.py", "def built(): pass\n")
    with pytest.raises(PlugInError, match=r"^m\.py has no function build\(\.\.\.\); a model needs one$"):
        plugins.resolve("model", "m.py", [source], tmp_path)


def test_a_file_whose_text_did_not_come(tmp_path: Path) -> None:
    """A worker never looks for her file on its own disk."""
    (tmp_path / "m.py").write_text("def build(): pass\n", encoding="utf-8")
    with pytest.raises(PlugInError, match="its text did not come with it"):
        plugins.resolve("model", "m.py", [], tmp_path)


def test_call_gives_only_the_context_that_is_named() -> None:
    """load(**options) gets her options and nothing else; load(*, data_root, ...) gets data_root too."""
    context = {"data_root": Path("/x"), "clients": 3}
    assert plugins.call("dataset", lambda **options: options, context, {"rows": 2}) == {"rows": 2}
    assert plugins.call("dataset", lambda *, clients, rows: (clients, rows), context, {"rows": 2}) == (3, 2)


def test_our_house_is_ours() -> None:
    """In our own tree the six packages are found beside one another."""
    plugins.verify_house()


def test_a_user_s_worker_folder_in_the_way_is_named(tmp_path: Path) -> None:
    """A folder worker/ that Python would import instead of ours is refused by its path."""
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "__init__.py").write_text("", encoding="utf-8")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(HOUSE)!r}]\n"
        "from fl_core import plugins\n"
        "from fl_core.errors import InputError\n"
        "try:\n    plugins.verify_house()\n"
        "except InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == (
        f"{tmp_path / 'worker'} shadows flspan's own package worker ({HOUSE / 'worker'}): "
        "rename it, or start from another folder"
    )
    assert issubclass(PlugInError, InputError)


def test_a_file_that_leaves_the_interpreter(tmp_path: Path) -> None:
    """sys.exit() while it is imported is an error of the file, with its line."""
    text = "import sys\nsys.exit(3)\n"
    source = SourceFile("algorithm", "leaves.py", hashlib.sha256(text.encode()).hexdigest(), text)
    with pytest.raises(UserCodeError, match=r"leaves\.py:2: SystemExit: 3"):
        plugins.user_module(source, tmp_path)
