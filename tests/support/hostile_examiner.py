"""The publisher's examiner, taken over: the reader carries out what the upload says. `ATTEMPTS` or a `STATEMENT`.

`python -m tests.support.hostile_examiner on|off`: off is the control, without confinement.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from modelsync_protocol import references
from modelsync_server.examination import examiner
from tests.support.hostile_code import ATTEMPTS


class _Found:
    refusal = None

    def __init__(self, code: list[str]) -> None:
        self.code = code


def _hostile(tree: Any, **_: Any) -> _Found:
    wanted = json.loads(bytes(next(iter(tree.files.values()))))
    scope: dict[str, Any] = {}
    exec(compile(ATTEMPTS, "attempts", "exec"), scope)
    if isinstance(wanted, str):
        exec(wanted, scope)
        return _Found([])
    return _Found([scope["attempt"](*one) for one in wanted])


if __name__ == "__main__":
    references.read = _hostile  # type: ignore[assignment]
    if sys.argv[1] == "off":
        examiner._confine = lambda *_: []
    examiner.main()
