"""Made the golden vector of plain views; `python -m tests.protocol.golden.make_views FOLDER`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from modelsync_protocol import codecs, update
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame
from modelsync_protocol.plain import recipes
from modelsync_protocol.plain.recipes import Recipe, Wrapping
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import Member, View
from tests.protocol.golden.make import noise, regular

RECIPES = (
    Recipe(Wrapping.RAW, 6),
    Recipe(Wrapping.ZLIB, 9, memory_level=9, shuffle=4),
    Recipe(Wrapping.RAW, 1, flushed=True),
    Recipe(Wrapping.ZLIB, 4, window_bits=12, strategy=1),
    Recipe(Wrapping.STORED),
)

_SAME_BYTES = 900
"""Of each member's beginning."""


def member(seed: str, changed: bool) -> bytes:
    """Plain bytes like weights': a noisy byte, then one of few; some of them changed."""
    noisy = bytearray(noise(f"view {seed}", 3000))
    if changed:
        noisy[1000:1010] = noise(f"view {seed} changed", 10)
    return bytes(byte if at % 2 else 0x38 | noisy[at - 1] & 7 for at, byte in enumerate(noisy)) + bytes(noisy[:500])


def stream(changed: bool) -> tuple[bytes, list[Member], list[bytes]]:
    """A stream with a member of each recipe between bytes of its own; its members, and their plain bytes."""
    out = bytearray()
    members, plain = [], []
    for number, recipe in enumerate(RECIPES):
        out += b"header %d, " % number + (b"new" if changed else b"old")
        content = member(str(number), changed)
        packed = b"".join(recipes.compressed(recipe, [content]))
        members.append(Member(len(out), len(packed), len(content), recipe))
        plain.append(content)
        out += packed
    out += b"trailer"
    return bytes(out), members, plain


def view_bytes(content: bytes, members: Sequence[Member], plain: Sequence[bytes]) -> tuple[View, bytes]:
    """The view, and its bytes; the target lists its last member first."""
    view = View(len(content), members)
    rest = b"".join(content[piece.offset : piece.offset + piece.length] for piece in view.pieces(0, view.rest_bytes))
    return view, rest + b"".join(plain)


def main(folder: Path) -> None:
    """Write both streams, their manifests and the update."""
    folder.mkdir(parents=True)
    old, old_members, old_plain = stream(False)
    new, new_members, new_plain = stream(True)
    base, base_view = view_bytes(old, old_members, old_plain)
    order = [4, 0, 1, 2, 3]
    target, target_view = view_bytes(new, [new_members[n] for n in order], [new_plain[n] for n in order])
    manifests = [Manifest((regular("model.bin", data, (1500, len(data) - 1500)),)) for data in (old, new)]
    head = target.rest_bytes
    kept = base.size - old_members[4].plain
    payloads = [
        codecs.ENCODINGS[codecs.ZSTD_PATCH].encode(target_view[:head], base_view[: base.rest_bytes], b""),
        codecs.ENCODINGS[codecs.ZSTD_PATCH].encode(target_view[head + _SAME_BYTES :], base_view, b""),
    ]
    operations = (
        Frame(head, codecs.ZSTD_PATCH, len(payloads[0]), 0, base.rest_bytes),
        Copy(_SAME_BYTES, kept),
        Frame(target.size - head - _SAME_BYTES, codecs.ZSTD_PATCH, len(payloads[1]), 0, base.size),
    )
    assert target_view[head : head + _SAME_BYTES] == base_view[kept : kept + _SAME_BYTES]
    header = update.encode_header(manifests[0], manifests[1], operations, b"", Views(base, target))
    files = {
        "base.stream": old,
        "base.manifest.json": manifests[0].encoded,
        "target.manifest.json": manifests[1].encoded,
        "target.update": header + b"".join(payloads),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    (folder / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
