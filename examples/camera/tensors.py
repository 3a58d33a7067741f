"""From a picture to the tensor that a model takes, channels first (ONNX) or last (TFLite). No files here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Frame = npt.NDArray[np.uint8]
"""RGB, (height, width, 3)."""

MOST_PIXELS = 7680 * 4320
"""Of a picture, and of what a model takes: 8K, 95 MiB as RGB. A camera's pod has 256 MiB."""


def tensor(frame: Frame, shape: Sequence[int], *, bgr: bool = True, full: float = 255.0) -> npt.NDArray[np.float32]:
    """`frame` as one row for an input of `shape` (n, 3, h, w) or (n, h, w, 3); ValueError for any other.

    Custom Vision's compact models want blue first and values to 255; what others want stands in their documentation.
    """
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ValueError(f"the model's input has the shape {list(shape)}; pictures are (n, 3, h, w) or (n, h, w, 3).")
    first = shape[1] == 3
    height, width = (shape[2], shape[3]) if first else (shape[1], shape[2])
    if height * width * 4 > MOST_PIXELS:  # floats of three colours
        raise ValueError(f"the model takes pictures of {width} x {height}: that is more than a camera's pod can hold.")
    if frame.shape[:2] != (height, width) and height > 0 and width > 0:
        frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    row = frame[..., ::-1] if bgr else frame
    row = row.transpose(2, 0, 1) if first else row
    return np.ascontiguousarray(row[None], np.float32) * np.float32(full / 255)
