"""Every file in deploy/ and examples/pipelines/ passes its schema, and says nothing that this program does not know.

The schemas lie beside, packed: GitHub workflows, IoT Edge deployments and Prometheus rules from SchemaStore
(Apache-2.0), Azure Pipelines from microsoft/azure-pipelines-vscode (MIT), Kubernetes 1.31 from its OpenAPI
description (Apache-2.0), Azure's resources from azure-resource-manager-schemas (MIT).
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelsync_daemon import config
from modelsync_inference.edge import options as edge_options
from modelsync_protocol import twin
from modelsync_server.hub import routes

ROOT = Path(__file__).resolve().parents[2]
EDGE = ROOT / "deploy" / "iotedge"
CLUSTER = [
    *sorted(path for folder in ("k3s", "fleet") for path in (ROOT / "deploy" / folder).glob("*.yaml")),
    ROOT / "examples" / "camera" / "k3s.yaml",
]
PIPELINES = ROOT / "examples" / "pipelines"


def _schema(name: str) -> Any:
    return json.loads(gzip.decompress((Path(__file__).parent / "schemas" / f"{name}.json.gz").read_bytes()))


def _check(document: Any, schema: Any) -> None:
    jsonschema.validators.validator_for(schema)(schema).validate(document)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--data", "--host", "--port"):
        parser.add_argument(name)
    parser.add_argument("--model", action="append")
    edge_options.add_arguments(parser)
    return parser.parse_args(arguments)


def _yaml(path: Path) -> list[Any]:
    # BaseLoader's booleans: YAML 1.1 reads the workflow's key `on` as true.
    loaded = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
    return [{"on" if key is True else key: value for key, value in document.items()} for document in loaded]


def test_the_deployment_manifest_passes_its_schema() -> None:
    document = json.loads((EDGE / "deployment.json").read_text())
    _check(document, _schema("azure-iot-edge-deployment-2.0"))
    modules = document["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]
    binds = set()
    for module in modules.values():
        options = json.loads(module["settings"]["createOptions"])
        assert options["HostConfig"]["Memory"] >= 128 << 20, "a limit, and not less than a worker needs"
        binds |= set(options["HostConfig"].get("Binds", ()))
    assert len(binds) == 1, "daemon and scoring share one directory"
    source = (ROOT / "daemon" / "modelsync_daemon" / "local" / "metrics.py").read_text()
    for metric in modules["metrics"]["env"]["AllowedMetrics"]["value"].split():
        assert metric in source or metric.removeprefix("modelsync_model_") in source
    for key in modules["modelsync"]["env"]:
        assert key.removeprefix("MODELSYNC_").lower() in config.SETTINGS
    command = json.loads(modules["scoring"]["settings"]["createOptions"])["Cmd"]
    scoring = edge_options.read(_parse(command[1:]), {"IOTEDGE_WORKLOADURI": "unix:///x"})
    assert scoring is not None
    edge = routes.parse_all(document["modulesContent"]["$edgeHub"]["properties.desired"])
    assert edge is not None and edge["readings"].sink.module == "scoring"
    sources = {route.source for route in edge.values()}
    for output in (scoring.output, scoring.error_output, scoring.all_output):
        assert f"/messages/modules/scoring/outputs/{output}" in sources, "what the module sends has a way to go"
    desired = twin.parse_desired(document["modulesContent"]["modelsync"]["properties.desired"])
    assert desired.models["anomaly"].version == 1 and not desired.problems


@pytest.mark.parametrize("path", sorted(EDGE.glob("*.layered.json")), ids=lambda path: path.name)
def test_a_layered_deployment_sets_only_the_modules_twin(path: Path) -> None:
    document = json.loads(path.read_text())
    assert set(document) <= {"id", "priority", "targetCondition", "labels", "content", "metrics"}
    assert re.fullmatch(r"[a-z0-9-]{1,128}", document["id"]) and document["priority"] > 0
    [(module, patch)] = document["content"]["modulesContent"].items()
    assert module == "modelsync"
    desired: dict[str, Any] = {}
    for key, value in patch.items():
        place = desired
        *parents, last = key.removeprefix("properties.desired.").split(".")
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    understood = twin.parse_desired(desired)
    assert not understood.problems and (understood.models or understood.origin)
    for query in document.get("metrics", {}).get("queries", {}).values():
        assert query.startswith("SELECT deviceId FROM devices.modules WHERE ")


@pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.name)
def test_cluster_manifests_pass_the_kubernetes_schema(path: Path) -> None:
    schema = _schema("kubernetes")
    for document in _yaml(path):
        kind = schema["kinds"][document["kind"]]
        _check(document, {**kind, "definitions": schema["definitions"]})
        if document["kind"] == "ConfigMap":
            (text,) = document["data"].values()
            import tomllib

            config.from_mapping(tomllib.loads(text), Path("/"), "the ConfigMap")


def test_the_schemas_find_mistakes() -> None:
    schema = _schema("kubernetes")
    [broken] = [item for item in _yaml(ROOT / "deploy" / "k3s" / "modelsync.yaml") if item["kind"] == "DaemonSet"]
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(jsonschema.ValidationError):
        _check(broken, {**schema["kinds"]["DaemonSet"], "definitions": schema["definitions"]})
    deployment = json.loads((EDGE / "deployment.json").read_text())
    deployment["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["modelsync"]["status"] = "run"
    with pytest.raises(jsonschema.ValidationError):
        _check(deployment, _schema("azure-iot-edge-deployment-2.0"))


@pytest.mark.parametrize(
    ("name", "schema", "commands"),
    [
        ("github-workflow", "github-workflow", {"publish", "push"}),
        ("azure-pipelines", "azure-pipelines", {"publish", "push"}),
        ("rollout-github-workflow", "github-workflow", {"rollout plan", "rollout start", "rollout step"}),
        ("rollout-azure-pipelines", "azure-pipelines", {"rollout step"}),
        ("camera-azure-pipelines", "azure-pipelines", {"publish", "rollout start", "rollout watch"}),
    ],
)
def test_the_pipelines_pass_their_schemas_and_their_commands_exist(name: str, schema: str, commands: set[str]) -> None:
    path = PIPELINES / f"{name}.yml"
    # Azure's schema is for scalars as they are written.
    [document] = _yaml(path) if schema != "azure-pipelines" else [yaml.load(path.read_text(), yaml.BaseLoader)]
    _check(document, _schema(schema))
    text = path.read_text().replace("\\\n", " ")
    found = set()
    for line in re.findall(r"^\s+modelsync .*$", text, re.MULTILINE):
        words = line.split()
        command = words[1:3] if words[1] == "rollout" else words[1:2]
        found.add(" ".join(command))
        help_text = subprocess.run(
            [Path(sys.executable).with_name("modelsync"), *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "NO_COLOR": "1"},
        ).stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in help_text, f"{command} has no {option}"
    assert found == commands
    assert {path.stem for path in PIPELINES.iterdir()} == {
        "github-workflow",
        "azure-pipelines",
        "rollout-github-workflow",
        "rollout-azure-pipelines",
        "camera-azure-pipelines",
    }, "every pipeline is checked"


def _template(name: str = "azuredeploy") -> Any:
    return json.loads((ROOT / "deploy" / "azure" / f"{name}.json").read_text())


def test_each_resource_of_the_azure_template_passes_its_providers_schema() -> None:
    schema = _schema("azure-resources")
    for resource in [*_template()["resources"], *_template("engine")["resources"]]:
        kind = {**schema["resources"][resource["type"]], "definitions": schema["definitions"]}
        jsonschema.Draft7Validator(kind).validate({key: value for key, value in resource.items() if key != "scope"})
    broken = next(item for item in _template()["resources"] if item["type"] == "Microsoft.Storage/storageAccounts")
    broken["kind"] = "StorageV9"
    with pytest.raises(jsonschema.ValidationError):
        kind = {**schema["resources"][broken["type"]], "definitions": schema["definitions"]}
        jsonschema.Draft7Validator(kind).validate(broken)


def test_the_engines_job_on_azure_is_a_command_that_there_is() -> None:
    import typer.core
    import typer.main

    from modelsync_server.cli import app

    (job,) = [item for item in _template("engine")["resources"] if item["type"] == "Microsoft.App/jobs"]
    (container,) = job["properties"]["template"]["containers"]
    assert container["command"] == ["modelsync"]
    main = typer.main.get_command(app)
    words = ["azblob://account/models" if word.startswith("[concat") else word for word in container["args"]]
    name, *rest = words
    assert isinstance(main, typer.core.TyperGroup)
    command = main.commands[name]
    options = command.make_context(name, rest).params
    assert (options["engine"], options["workers"], options["keys"]) == ("dask", container["resources"]["cpu"], "/keys")
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/keys", next(each["value"] for each in container["env"] if each["name"] == "TMPDIR")} == mounted


def test_the_azure_template_gives_the_roles_that_the_page_names_and_no_others() -> None:
    roles = {
        "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
        "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
        "db58b8e5-c6ad-4a2a-8342-4190687cbf4a": "Storage Blob Delegator",
        "12338af0-0e69-4776-bea7-57ae8d297424": "Key Vault Crypto User",
    }
    given = set()
    for resource in _template()["resources"]:
        if resource["type"] == "Microsoft.Authorization/roleAssignments":
            who = re.findall(r"'modelsync-([a-z]+)'", resource["name"])[0]
            role = roles[re.findall(r"[0-9a-f-]{36}", resource["properties"]["roleDefinitionId"])[0]]
            place = (re.findall(r"'default', '([a-z]+)'", resource["scope"]) or ["account or vault"])[0]
            given.add((who, role, place))
    assert given == {
        ("publisher", "Storage Blob Data Contributor", "models"),
        ("publisher", "Storage Blob Delegator", "account or vault"),
        ("publisher", "Key Vault Crypto User", "account or vault"),
        ("webhook", "Storage Blob Data Contributor", "models"),
        ("webhook", "Storage Blob Data Reader", "uploads"),
        ("webhook", "Key Vault Crypto User", "account or vault"),
        ("training", "Storage Blob Data Contributor", "uploads"),
    }
    page = (ROOT / "docs" / "azure.md").read_text()
    assert all(role in page for role in roles.values())


def _containers() -> list[tuple[str, dict[str, Any]]]:
    """Our containers in deploy/k3s and deploy/fleet: name, security context with the pod's."""
    found = []
    for path in CLUSTER:
        for document in _yaml(path):
            spec = document.get("spec", {})
            spec = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec", {})
            shared = spec.get("securityContext", {})
            found += [
                (f"{path.name} {each['name']}", {**shared, **each.get("securityContext", {})})
                for each in spec.get("containers", ())
            ]
    return found


@pytest.mark.parametrize(("name", "context"), _containers())
def test_a_pods_container_gives_up_what_it_does_not_need(name: str, context: dict[str, Any]) -> None:
    assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    # A secret's files are root's, and keys that others may read are refused.
    assert context.get("runAsNonRoot") is True or name in ("refresh.yaml refresh", "engine.yaml publish")


def test_edge_modules_give_up_what_they_do_not_need() -> None:
    document = json.loads((EDGE / "deployment.json").read_text())
    modules = document["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]
    for name in ("modelsync", "scoring"):
        host = json.loads(modules[name]["settings"]["createOptions"])["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["PidsLimit"] <= 128
        assert host["SecurityOpt"] == ["no-new-privileges:true"], "Docker's own seccomp profile stays in force"
