"""A program for test_camera: writes a film of one colour a frame, reads it as the camera does, prints what it saw."""

from __future__ import annotations

import importlib
import itertools
import json
import sys

import numpy as np

from examples.camera.frames import open_source

if __name__ == "__main__":
    cv2 = importlib.import_module("cv2")
    path = sys.argv[1]
    film = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 16))
    for red in (0, 80, 160, 240):
        film.write(np.full((16, 32, 3), (0, 0, red), np.uint8))  # OpenCV's own order is BGR
    film.release()
    source = open_source(path)
    frames = ((each, each.frame) for each in source.frames(1))
    seen = [(each.number, each.name, frame.shape, frame[8, 8].tolist()) for each, frame in frames if frame is not None]
    later = [each.number for each in itertools.islice(open_source(path).frames(3), 9)]
    print(json.dumps({"live": source.live, "seen": seen, "later": later}))  # noqa: T201 - this is a program
    try:
        open_source("/dev/video97")
    except ValueError as error:
        print(json.dumps({"refused": str(error)}))  # noqa: T201
