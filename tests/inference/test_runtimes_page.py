"""docs/integrations/runtimes.md: each two-minute path runs as it stands there, from publishing to an answer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support import tiny_gguf
from tests.support.addresses import free_port
from tests.support.runtime_kinds import all_kinds
from tests.test_docs import ROOT, going

PAGE = ROOT / "docs" / "integrations" / "runtimes.md"
_BLOCK = re.compile(r"<!-- tested by tests/inference/test_runtimes_page.py: ([\w ]+) -->\n```sh\n(.*?)```", re.DOTALL)
BLOCKS = dict(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
ANSWERS = {
    "litert": ['"platform": "litert_tflite"', '"data":[63]'],
    "openvino": ['"data":[63]'],
    "llama": ['"id": "chat"', '"content": "63', 'data: {"choices":[{"text":"63"', "data: [DONE]"],
    "providers": ["'fallback': 'TensorrtExecutionProvider is not in use", 'provider_fallback{model="anomaly"} 1.0'],
}


def _models(folder: Path) -> None:
    """What the page supposes to be there: models that answer with three times their input."""
    kinds = all_kinds()
    kinds["tflite in a thread"].write(folder, 3).rename(folder / "detector.tflite")
    (folder / "net").mkdir()
    kinds["openvino in a thread"].write(folder / "net", 3)
    tiny_gguf.write(folder / "chat.gguf", 3)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_a_two_minute_path_leads_to_an_answer(tmp_path: Path, name: str) -> None:
    assert shutil.which("curl") is not None, "curl is missing"
    _models(tmp_path)
    script = f"set -e\n{BLOCKS['set up']}{BLOCKS[name]}"
    for port in ("8124", "8001"):
        script = script.replace(port, str(free_port()))
    with going(script, tmp_path):
        said = (tmp_path / "said").read_text()
    for answer in ANSWERS[name]:
        assert answer in said, said


def test_every_path_of_the_page_is_tested() -> None:
    assert set(BLOCKS) == {"set up", *ANSWERS}
