"""What the heads of GGUF and OpenVINO files, and lists of Python packages, require."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelsync_protocol.containers.gguf import head
from modelsync_protocol.errors import FormatError
from modelsync_protocol.requirements import terms
from modelsync_protocol.requirements.releases import normalised

GGUF = b"GGUF"
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_NET = re.compile(rb"<net\b[^>]{0,4096}?\bversion=[\"'](\d{1,4})[\"']")
_XML_HEAD, _MAX_LIST_BYTES, _MOST_PACKAGES = 8192, 64 * 1024, 16


def read_gguf(data: memoryview) -> Iterator[tuple[str, str]]:
    """Yield the file's version and the model's architecture; FormatError for a damaged head."""
    version, architecture = head(data)
    yield terms.GGUF_VERSION, str(version)
    if _ARCHITECTURE.fullmatch(architecture):
        yield terms.GGUF_ARCHITECTURE, architecture


def read_openvino(data: memoryview) -> Iterator[tuple[str, str]]:
    """Yield the IR version of an OpenVINO model's XML; nothing for other XML."""
    found = _NET.search(bytes(data[:_XML_HEAD]))
    if found is not None:
        yield terms.OPENVINO_IR, str(int(found[1]))


def read_list(data: memoryview) -> Iterator[tuple[str, str]]:
    """Yield the packages of a requirements.txt as it states them; options, URLs and other machines' are left out."""
    from packaging.requirements import InvalidRequirement, Requirement

    if len(data) > _MAX_LIST_BYTES:
        raise FormatError("the list of packages is too long.")
    left = _MOST_PACKAGES
    for line in bytes(data).decode(errors="replace").splitlines():
        text = line.partition("#")[0].partition(";")[0].partition("--")[0].strip(" \t\\")
        try:
            found = Requirement(text)
        except InvalidRequirement:
            continue
        if found.url is None and left and not str(found.specifier).startswith("==="):
            left -= 1
            yield f"{terms.PACKAGE}{normalised(found.name)}", str(found.specifier) or "*"
