"""Writes an image's bill of materials: CycloneDX 1.6 (JSON) of Debian packages and Python distributions."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from debian import Package
from packageurl import PackageURL

PLACE = "usr/share/sbom/modelsync.cdx.json"
_DEBIAN = "debian-13"


def document(name: str, packages: Iterable[Package], roots: Iterable[Path]) -> str:
    """The bill of image `name`: `packages`, and what pip installed in `roots` (the layers' folders)."""
    bom = Bom()
    bom.metadata.component = Component(type=ComponentType.CONTAINER, name=f"modelsync-{name}", bom_ref="image")
    for package in packages:
        bom.components.add(_from_debian(package))
    for root in roots:
        folders = [str(path) for path in root.glob("usr/local/lib/python3.*/dist-packages")]
        for found in distributions(path=folders):
            bom.components.add(_from_pip(found))
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def _from_debian(package: Package) -> Component:
    qualifiers = {"arch": package.architecture, "distro": _DEBIAN}
    address = PackageURL("deb", "debian", package.name, package.version, qualifiers)
    return Component(name=package.name, version=package.version, purl=address, bom_ref=str(address))


def _from_pip(found: Distribution) -> Component:
    address = PackageURL("pypi", None, found.name.lower().replace("_", "-"), found.version)
    licence = found.metadata.get("License-Expression") or found.metadata.get("License")
    short = licence is not None and "\n" not in licence
    return Component(
        name=found.name,
        version=found.version,
        purl=address,
        bom_ref=str(address),
        licenses=[DisjunctiveLicense(name=licence)] if short else (),
    )
