"""A language model that llama.cpp loads and that can be foretold: it continues the number n with n * factor.

A llama of one block whose attention and feed-forward weights are zero, so that the last token's embedding (one-hot)
goes straight to the output matrix, in which one 1 stands per token. Half a megabyte.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from tests.support.gguf_files import gguf, strings, text

_NUMBERS = 150
_WIDTH = 160
_UNKNOWN, _BEGIN, _END = 0, 1, 2
_FIRST_BYTE, _FIRST_NUMBER = 3, 259
_KIND_UNKNOWN, _KIND_CONTROL, _KIND_BYTE, _KIND_NORMAL = 2, 3, 6, 1
TEMPLATE = "{{ messages[-1]['content'] }}"


def write(path: Path, factor: int, *, endless: bool = False, heavy: int = 0) -> Path:
    """Write the model. `endless`: it counts up by `factor` for ever instead of ending after one number.

    `heavy`: so many columns of feed-forward weights, which make each token take its time.
    """
    path.write_bytes(_file(factor, endless, heavy or 32))
    return path


def _file(factor: int, endless: bool, hidden: int) -> bytes:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(str, range(_NUMBERS))]
    kinds = [_KIND_UNKNOWN, _KIND_CONTROL, _KIND_CONTROL] + [_KIND_BYTE] * 256 + [_KIND_NORMAL] * _NUMBERS
    # Longer numbers are better: they are what pieces are merged into.
    scores = [0.0] * _FIRST_NUMBER + [float(len(str(number))) for number in range(_NUMBERS)]
    count = len(tokens)
    embedding = np.zeros((count, _WIDTH), dtype="<f4")
    answer = np.zeros((count, _WIDTH), dtype="<f4")
    for number in range(_NUMBERS):
        embedding[_FIRST_NUMBER + number, number] = 1
        follows = (number + factor if endless else number * factor) % _NUMBERS
        answer[_FIRST_NUMBER + follows, number] = 1
    numbers = {
        "llama.context_length": 2048,
        "llama.embedding_length": _WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": hidden,
        "llama.attention.head_count": 5,
        "llama.attention.head_count_kv": 1,
        "llama.vocab_size": count,
        "tokenizer.ggml.bos_token_id": _BEGIN,
        "tokenizer.ggml.eos_token_id": _END,
        "tokenizer.ggml.unknown_token_id": _UNKNOWN,
    }
    pairs = {key: struct.pack("<II", 4, value) for key, value in numbers.items()}
    pairs["llama.attention.layer_norm_rms_epsilon"] = struct.pack("<If", 6, 1e-5)
    pairs |= {key: struct.pack("<IB", 7, False) for key in ("tokenizer.ggml.add_space_prefix",)}
    for key, value in {"tokenizer.ggml.model": "llama", "tokenizer.chat_template": TEMPLATE}.items():
        pairs[key] = struct.pack("<I", 8) + text(value)
    pairs["tokenizer.ggml.tokens"] = strings(tokens)
    pairs["tokenizer.ggml.scores"] = struct.pack("<IIQ", 9, 6, count) + np.array(scores, "<f4").tobytes()
    pairs["tokenizer.ggml.token_type"] = struct.pack("<IIQ", 9, 5, count) + np.array(kinds, "<i4").tobytes()
    head = _WIDTH // 5
    shapes = {
        "attn_q.weight": (_WIDTH, _WIDTH),
        "attn_k.weight": (head, _WIDTH),
        "attn_v.weight": (head, _WIDTH),
        "attn_output.weight": (_WIDTH, _WIDTH),
        "ffn_gate.weight": (hidden, _WIDTH),
        "ffn_up.weight": (hidden, _WIDTH),
        "ffn_down.weight": (_WIDTH, hidden),
    }
    weights = {f"blk.0.{name}": np.zeros(shape, "<f4") for name, shape in shapes.items()}
    ones = {name: np.ones(_WIDTH, "<f4") for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")}
    every = {"token_embd.weight": embedding, "output.weight": answer, "output_norm.weight": np.ones(_WIDTH, "<f4")}
    tensors = {name: ("f32", array.shape, array.tobytes()) for name, array in {**every, **ones, **weights}.items()}
    return gguf(tensors, pairs=pairs)
