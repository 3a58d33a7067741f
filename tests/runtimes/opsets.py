"""What releases of ONNX Runtime read: `python -m tests.runtimes.opsets 1.15 1.16 …`.

The table is protocol/modelsync_protocol/requirements/releases.py. Each release is fetched by pip into a temporary
folder and asked in a process of its own, with an older NumPy where it wants one (--numpy 1.26.4). Without arguments the
installed release is measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from modelsync_protocol.requirements.releases import Reads


def measure() -> tuple[str, Reads]:
    """(version, what it reads) of the ONNX Runtime that this process imports."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    onnxruntime.set_default_logger_severity(4)
    # Operators that have hardly changed: what is asked for is the opset, not an operator's newest form.
    negative = helper.make_node("Neg", ["x"], ["y"])
    scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])

    def takes(ir: int, opsets: dict[str, int], node: onnx.NodeProto) -> bool:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
        imports = [helper.make_opsetid(domain, number) for domain, number in opsets.items()]
        model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=imports)
        model.ir_version = ir
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception:
            return False
        return True

    opset = max(number for number in range(7, 40) if takes(3, {"": number}, negative))
    ml = max(number for number in range(1, 15) if takes(3, {"": 7, "ai.onnx.ml": number}, scaler))
    ir = max(number for number in range(3, 30) if takes(number, {"": 7}, negative))
    return onnxruntime.__version__, Reads(opset, ml, ir)


def _unpacked(requirement: str, folder: Path) -> Path:
    wheels, target = folder / "wheels", folder / "packages"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "-d", str(wheels), requirement], check=True)
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(target)
    return target


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*")
    parser.add_argument("--numpy")
    options = parser.parse_args()
    if not options.releases:
        version, reads = measure()
        sys.stdout.write(f"{version}: {reads}\n")
    for release in options.releases:
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(_unpacked(f"onnxruntime=={release}.*", Path(folder)))]
            if options.numpy:
                paths.append(str(_unpacked(f"numpy=={options.numpy}", Path(folder) / "numpy")))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(Path.cwd())])}
            subprocess.run([sys.executable, "-m", "tests.runtimes.opsets"], check=True, env=environment)


if __name__ == "__main__":
    main()
