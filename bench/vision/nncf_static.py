"""NNCF's static int8 of an ONNX file in OpenVINO; prints the answers to images, one at a time.

It runs in an environment of its own, which has nncf.
"""

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    """Quantize where the file is not there yet; answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the float32 ONNX file")
    parser.add_argument("calibration", help="npy of float32 (rows, 3, height, width)")
    parser.add_argument("images", help="npy of as such rows, to answer")
    parser.add_argument("file", type=Path, help="the .xml file to write")
    asked = parser.parse_args()
    import nncf  # type: ignore[import-not-found]  # not where the parser's help is asked for
    import openvino

    core = openvino.Core()
    if not asked.file.is_file():
        rows = np.load(asked.calibration)
        found = nncf.quantize(core.read_model(asked.model), nncf.Dataset([row[None] for row in rows]), subset_size=len(rows))
        openvino.save_model(found, asked.file)
    compiled = core.compile_model(asked.file, "CPU", {"INFERENCE_NUM_THREADS": 1})
    answers = [int(next(iter(compiled(row[None]).values())).argmax()) for row in np.load(asked.images)]
    size = sum(asked.file.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    print(json.dumps({"answers": answers, "bytes": size}))


if __name__ == "__main__":
    main()
