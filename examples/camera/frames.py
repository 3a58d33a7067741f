"""Where frames come from: a folder of pictures, or a V4L2 camera through OpenCV. No model here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from examples.camera.tensors import MOST_PIXELS, Frame


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame with its number, from 1 on without a gap; `name`: of its file, or the device's.

    `frame` None: there is no picture, and `lost` says why.
    """

    number: int
    name: str
    frame: Frame | None
    lost: str = ""


class Source(Protocol):
    """Gives frames one after the other."""

    live: bool
    """Whether a frame that nobody takes is gone: a camera does not wait, a folder does."""

    def frames(self, first: int) -> Iterator[Seen]:
        """Frames from number `first` on; OSError when the device is gone."""


class Folder:
    """Pictures of a folder in the order of their names, round and round: frame n is always the same picture."""

    live = False

    def __init__(self, folder: Path) -> None:
        """ValueError if it has none."""
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not self._paths:
            raise ValueError(f"{folder} has no .png or .jpg pictures.")

    def frames(self, first: int) -> Iterator[Seen]:
        """See Source."""
        number = first
        while True:
            path = self._paths[(number - 1) % len(self._paths)]
            yield _opened(number, path)
            number += 1


def _opened(number: int, path: Path) -> Seen:
    """A picture that can't be read, or is larger than memory may be, costs its own frame and no other."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return Seen(number, path.name, None, f"{picture.width} x {picture.height} pixels are too many")
            return Seen(number, path.name, np.asarray(picture.convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow says of damage
        return Seen(number, path.name, None, f"no picture that can be read ({error!s:.100})")


class Video:
    """A V4L2 device such as /dev/video0, or a file that OpenCV reads (`pip install opencv-python-headless`; on a Pi
    `apt install python3-opencv`).

    Source: https://docs.opencv.org/4.x/d8/dfe/classcv_1_1VideoCapture.html.
    """

    def __init__(self, path: str, width: int = 640, height: int = 480) -> None:
        """ImportError without OpenCV; OSError if the device can't be opened."""
        cv2 = importlib.import_module("cv2")
        self._cv2, self._name = cv2, Path(path).name
        device = re.fullmatch(r"/dev/video(\d+)", path)
        self.live = device is not None
        self._capture: Any = cv2.VideoCapture(path, cv2.CAP_V4L2 if device else cv2.CAP_ANY)
        if not self._capture.isOpened():
            raise OSError(f"{path} can't be opened: is it a camera, and may this user read it (group video)?")
        if device:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)  # the newest frame, not one of a second ago

    def frames(self, first: int) -> Iterator[Seen]:
        """See Source; a file begins at frame `first`, a device where it is."""
        if not self.live and first > 1:
            self._capture.set(self._cv2.CAP_PROP_POS_FRAMES, first - 1)
        number = first
        while True:
            there, frame = self._capture.read()
            if not there:
                if self.live:
                    raise OSError(f"{self._name} gives no frames any more: was it unplugged?")
                return
            yield Seen(number, self._name, np.ascontiguousarray(frame[..., ::-1]))
            number += 1


def open_source(text: str) -> Source:
    """A folder, or else what OpenCV opens; ValueError says what to do."""
    if Path(text).is_dir():
        return Folder(Path(text))
    try:
        return Video(text)
    except ImportError as error:
        raise ValueError(
            f"{text} is no folder of pictures, and a camera needs OpenCV: pip install opencv-python-headless, or on a "
            "Pi apt install python3-opencv."
        ) from error
    except OSError as error:
        raise ValueError(str(error)) from error
