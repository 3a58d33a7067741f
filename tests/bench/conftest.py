"""A site for measurements: a line of namespaces where they are permitted, with everybody's static origin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_bench import namespaces
from modelsync_bench.certificates import make
from modelsync_bench.peers import Site
from modelsync_bench.static_origin import static_origin


@pytest.fixture(scope="session")
def _certificates_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def site(tmp_path: Path, _certificates_folder: Path) -> Iterator[Site]:
    reason = namespaces.why_not()
    if reason is not None:
        if os.environ.get("CI") and os.geteuid() == 0 and "not permitted" not in reason:
            pytest.fail(f"CI must have what the bench's line needs: {reason}")
        pytest.skip(f"bytes can't be counted on an interface: {reason}")
    certificates = make(_certificates_folder)
    scratch, peers = tmp_path / "scratch", tmp_path / "peers"
    scratch.mkdir()
    peers.mkdir()
    with (
        namespaces.NamespaceLab(scratch, certificates.ca) as lab,
        static_origin(lab, peers, scratch, certificates) as static,
    ):
        if static is None:
            pytest.skip("nginx is not installed, which serves most peers' files: apt install nginx-light")
        yield Site(lab, certificates, static, peers, scratch)
