"""`nncf_static.py MODEL.onnx CALIBRATION.npy IMAGES.npy FILE.xml`: NNCF's static int8 in OpenVINO.

It runs in an environment of its own, and prints the answers to the images, one at a time. CALIBRATION, IMAGES: float32 (rows,
3, height, width).
"""

import json
import sys
from pathlib import Path

import nncf  # type: ignore[import-not-found]  # of the environment of its own
import numpy as np
import openvino  # type: ignore[import-untyped]


def main(model: str, calibration: str, images: str, file: str) -> None:
    """Quantize where the file is not there yet; answer."""
    core = openvino.Core()
    if not Path(file).is_file():
        rows = nncf.Dataset([row[None] for row in np.load(calibration)])
        openvino.save_model(nncf.quantize(core.read_model(model), rows, subset_size=len(np.load(calibration))), file)
    compiled = core.compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": 1})
    answers = [int(next(iter(compiled(row[None]).values())).argmax()) for row in np.load(images)]
    size = sum(Path(file).with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    print(json.dumps({"answers": answers, "bytes": size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
