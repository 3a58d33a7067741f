"""Small model files of formats whose writers are not installed here, written by hand."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np

MATRIX = np.arange(600, dtype="<f4").reshape(20, 30) / 7


def an_exported_program() -> bytes:
    """A `.pt2` as PyTorch has written it since 2.7: an entry a tensor, and what they are in JSON."""
    about = {"dtype": 7, "sizes": [{"as_int": 20}, {"as_int": 30}], "layout": 7}
    config = {"config": {"layer.weight": {"path_name": "weight_0", "is_param": True, "tensor_meta": about}}}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("m/data/weights/weight_0", MATRIX.tobytes())
        archive.writestr("m/data/weights/model_weights_config.json", json.dumps(config))
        archive.writestr("m/models/model.json", "{}")
    return out.getvalue()


def core_ml_weights() -> bytes:
    """A `weight.bin` of two blobs."""
    out = struct.pack("<II56x", 2, 2)
    for kind, content in ((1, MATRIX.astype("<f2").tobytes()), (2, MATRIX.tobytes())):
        place = len(out) + 64
        out += struct.pack("<IIQQ40x", 0xDEADBEEF, kind, len(content), place) + content
        out += bytes(-len(out) % 64)
    return out


NCNN = b"""7767517
5 5
Input data 0 1 data 0=8
Convolution c1 1 1 data a 0=4 1=3 5=1 6=216
BatchNorm bn 1 1 a b 0=4
ReLU r 1 1 b c
InnerProduct fc 1 1 c d 0=10 1=1 2=600
LSTM l 1 1 d e 0=8 1=64
InnerProduct last 1 1 e f 0=10 1=0 2=600
"""


def ncnn_weights() -> bytes:
    half, bias = MATRIX.astype("<f2").tobytes(), np.ones(4, "<f4").tobytes()
    convolution = struct.pack("<I", 0x01306B47) + half[: 2 * 216] + bias
    return convolution + 4 * bias + struct.pack("<I", 0) + MATRIX.tobytes() + bytes(40) + b"what an LSTM has"


OPENVINO = b"""<?xml version="1.0"?>
<net name="m" version="11"><layers>
  <layer id="0" name="x" type="Parameter" version="opset1"><data shape="1,20" element_type="f32"/></layer>
  <layer id="1" name="fc/weight" type="Const" version="opset1">
    <data element_type="f32" shape="20, 30" offset="8" size="2400"/>
  </layer>
  <layer id="2" name="mask" type="Const"><data element_type="boolean" shape="4" offset="0" size="4" /></layer>
</layers></net>
"""
