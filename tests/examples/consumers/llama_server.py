"""llama.cpp's server, as its Python binding has it: `python llama_server.py MODEL PORT`. Ends with 1 for a bad file.

A file `hangs` or `crashes` beside the model stands for a server that does so.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import xllamacpp

model, port = Path(sys.argv[1]), int(sys.argv[2])
if model.with_name("hangs").exists():
    time.sleep(3600)
if model.with_name("crashes").exists():
    threading.Timer(1.5, lambda: os._exit(9)).start()
parameters = xllamacpp.CommonParams()
parameters.model.path = str(model)
parameters.hostnames = ["127.0.0.1"]
parameters.port = port
parameters.n_ctx = 512
parameters.n_parallel = 2
parameters.warmup = False
parameters.endpoint_slots = True
parameters.cpuparams.n_threads = 1
try:
    server = xllamacpp.Server(parameters)
except (RuntimeError, ValueError) as error:
    sys.exit(f"{model} does not load: {error}")
threading.Event().wait()
