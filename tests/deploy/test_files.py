"""The files of deploy/, held against the tools that know their formats, and against each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fl_core.experiment.reading import read_experiments
from tests.deploy.conftest import ROOT, tool

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def passes(*command: str | Path, cwd: Path | None = None) -> str:
    """What the checker prints; it must find nothing."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def settings(unit: Path) -> dict[str, str]:
    """The last value of each setting of a unit."""
    lines = unit.read_text().replace("\\\n", " ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify`, with a program in the place of ours that exists; it says nothing."""
    program = tool("systemd-analyze")
    for unit in UNITS:
        text = unit.read_text()
        for name in ("flworker", "flmaster"):
            text = text.replace(f"/opt/flspan/bin/{name}", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [program, "verify", *(f"./{unit.name}" for unit in UNITS)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr
    assert "ignoring" not in done.stderr


def test_units_drain_and_keep_the_secret() -> None:
    """SIGTERM, more time than a drain takes, the secret as a credential, no new start of what is wrong."""
    worker, master = (settings(DEPLOY / "systemd" / f"{name}@.service") for name in ("flworker", "flmaster"))
    for unit in (worker, master):
        assert unit["KillSignal"] == "SIGTERM"
        assert unit["Type"] == "notify"
        assert unit["LoadCredential"].startswith("secret:/etc/")
        assert "2" in unit["RestartPreventExitStatus"].split()
    assert int(worker["TimeoutStopSec"]) > 30
    assert "%i" in worker["ExecStart"]


def test_shellcheck_has_nothing_to_say() -> None:
    """Of the batch file, `run` and what CI runs."""
    passes(tool("shellcheck"), DEPLOY / "slurm" / "flspan.sbatch", ROOT / "run", ROOT / ".ci" / "run")


def test_hadolint_has_nothing_to_say() -> None:
    """Of the Dockerfile."""
    passes(tool("hadolint"), DEPLOY / "docker" / "Dockerfile")


def test_the_image_has_every_package() -> None:
    """Each is copied, and let through by the ignore file; no secret is."""
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for package in sorted(path.parent.name for path in ROOT.glob("*/py.typed")):
        assert f"COPY {package} {package}" in dockerfile
        assert f"!{package}" in ignored
    assert "**/*.secret*" in ignored
    assert "\nUSER 10001" in dockerfile
    assert "HEALTHCHECK" in dockerfile


def test_compose_fits_its_schema() -> None:
    """The Compose Specification's own, which check-jsonschema brings along."""
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "docker" / "compose.yaml")


def yaml_of(text: str) -> list[Any]:
    """Its documents."""
    yaml = pytest.importorskip("yaml")
    return [document for document in yaml.safe_load_all(text) if document]


def test_compose_hands_out_the_secret_as_a_file() -> None:
    """To each of the three services; there is no other way to see it."""
    (compose,) = yaml_of((DEPLOY / "docker" / "compose.yaml").read_text())
    assert compose["secrets"] == {"flspan": {"file": "./flspan.secret"}}
    assert sorted(compose["services"]) == ["master", "worker-1", "worker-2"]
    assert all(service["secrets"] == ["flspan"] for service in compose["services"].values())


@pytest.fixture(scope="module", params=["base", "gpu"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, as kustomize puts them together."""
    kubectl = tool("kubectl")
    folder = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(DEPLOY / "kubernetes", folder / "all", ignore=shutil.ignore_patterns("*.secret"))
    (folder / "all" / "base" / "flspan.secret").write_text("00" * 32)
    made = folder / "manifests.yaml"
    made.write_text(passes(kubectl, "kustomize", folder / "all" / request.param))
    return made


def test_kubernetes_takes_the_manifests(manifests: Path) -> None:
    """Every object fits its schema, with no field that is not in there."""
    passes(tool("kubernetes-validate"), "--strict", "-k", "1.30", manifests)


def test_what_pods_name_is_there(manifests: Path) -> None:
    """Volumes lead to objects of these names, workers to the service, probes to flctl; limits are set."""
    objects = yaml_of(manifests.read_text())
    names = {(made["kind"], made["metadata"]["name"]) for made in objects}
    by_kind = {made["kind"]: made for made in objects}
    for kind in ("StatefulSet", "Job"):
        pod = by_kind[kind]["spec"]["template"]["spec"]
        for volume in pod["volumes"]:
            for source, key, of in (("secret", "secretName", "Secret"), ("configMap", "name", "ConfigMap")):
                assert source not in volume or (of, volume[source][key]) in names
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["memory"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["terminationGracePeriodSeconds"] > 30
    workers = by_kind["StatefulSet"]
    assert ("Service", workers["spec"]["serviceName"]) in names
    (container,) = workers["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["exec"]["command"][:2] == ["flctl", "ping"]
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == (1 if container["image"] == "flspan:cuda" else None)


def test_the_experiment_of_the_manifests_is_one() -> None:
    """The master would take it; the file of addresses names the two workers."""
    base = DEPLOY / "kubernetes" / "base"
    assert [found.name for found in read_experiments(base / "experiment.toml")] == ["digits-fedavg"]
    assert "flworker-0.flworker:7000\nflworker-1.flworker:7000" in (base / "workers").read_text()
