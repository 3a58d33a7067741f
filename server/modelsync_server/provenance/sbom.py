"""The bill of materials of one version, as CycloneDX 1.6 knows machine-learning models (ML-BOM).

Only what is signed, or follows from what is signed, is said. Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_protocol.release_record import METRICS, SOURCE

_SPECIFICATION = "1.6"
_NAMESPACE = uuid.UUID("7a0c4a7c-5d1f-5b59-9e57-0f6f1a0c4b1e")
"""Of serial numbers: the same version has the same one."""

_TOLD = ("author", "commit", "run")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the artifact: `sha256` None if it is not known."""

    path: str
    size: int
    sha256: str | None


def bill(
    name: str,
    version: int,
    digest: str,
    parts: Iterable[Part],
    *,
    published: datetime | None,
    requires: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """The document, valid by the schema of 1.6. `digest` is the manifest's, by which devices know the version.

    UsageError if the library is missing.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.model.license import DisjunctiveLicense
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError as error:
        raise UsageError(
            "bills of materials need cyclonedx-python-lib: pip install 'modelsync-server[provenance]'."
        ) from error
    said = {"manifest": digest, **{f"requires.{key}": value for key, value in requires.items()}}
    said |= {key: str(metadata[key]) for key in _TOLD if key in metadata}
    for number, each in enumerate(metadata.get("provenance", ())):
        said |= {f"provenance.{number}.{key}": str(value) for key, value in dict(each).items()}
    if isinstance(source := metadata.get(SOURCE), Mapping):
        said |= {f"source.{key}": str(value) for key, value in source.items()}
    model = Component(
        name=name,
        version=str(version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"{name}@{version}",
        description=metadata.get("description"),
        licenses=[DisjunctiveLicense(name=str(metadata["licence"]))] if "licence" in metadata else (),
        properties=[Property(name=f"modelsync:{key}", value=value) for key, value in sorted(said.items())],
        components=[
            Component(
                name=part.path,
                type=ComponentType.FILE,
                bom_ref=f"{name}@{version}/{part.path}",
                hashes=[] if part.sha256 is None else [HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)],
                properties=[Property(name="modelsync:bytes", value=str(part.size))],
            )
            for part in parts
        ],
    )
    made = Bom(serial_number=uuid.uuid5(_NAMESPACE, f"{name}/{version}/{digest}"))
    made.metadata.component = model
    if published is not None:
        made.metadata.timestamp = published
    text = make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    document: dict[str, Any] = json.loads(text)
    if published is None:  # the library would say the time of asking
        document["metadata"].pop("timestamp", None)
    _add_card(document["metadata"]["component"], metadata.get(METRICS))
    return document


def _add_card(component: dict[str, Any], metrics: Any) -> None:
    """The model card, which the library does not write yet."""
    if isinstance(metrics, Mapping) and metrics:
        measured = [{"type": str(key), "value": str(value)} for key, value in metrics.items()]
        component["modelCard"] = {"quantitativeAnalysis": {"performanceMetrics": measured}}


def problems(document: Mapping[str, Any]) -> str | None:
    """What is wrong with it by the specification's schema; None: nothing. Needs the library's extra json-validation."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    return None if found is None else str(found)
