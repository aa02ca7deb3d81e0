"""What others make of the same networks: ONNX Runtime's static integers, NNCF's in OpenVINO, and torch-pruning's cut.

The last two run in an environment of their own (`environment_for`), where their packages are installed; each is a script beside
this file. All calibrate on the same 512 images of train.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime.quantization as ort
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.vision.compare import normalized

CALIBRATION_ROWS, BATCH = 512, 64
NEEDED = ("nncf", "torch-pruning")
HERE = Path(__file__).parent


class _Images(ort.CalibrationDataReader):  # type: ignore[misc]  # it has no types
    """Hands ONNX Runtime's calibration the images in batches."""

    def __init__(self, name: str, data: Path) -> None:
        self.batches: Iterator[dict[str, object]] = ({name: batch} for batch in calibration(data))

    def get_next(self) -> dict[str, object] | None:
        """Return the next batch, or None."""
        return next(self.batches, None)


def calibration(data: Path) -> list["np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    """Return the first images of train in batches (rows, 3, height, width)."""
    with np.load(data / "train.npz", allow_pickle=False) as found:
        pixels = normalized(found["image"][:CALIBRATION_ROWS])
    return [pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH)]


def ort_static(original: Path, data: Path, file: Path) -> Path:
    """Write ONNX Runtime's own static int8 of a float32 file: QDQ, weights per channel, its defaults otherwise."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        ready, partial = file.with_suffix(".ready"), file.with_suffix(".part")
        quant_pre_process(str(original), str(ready), skip_symbolic_shape=True)
        name = ort.quant_utils.load_model_with_shape_infer(ready).graph.input[0].name
        ort.quantize_static(str(ready), str(partial), _Images(name, data), quant_format=ort.QuantFormat.QDQ, per_channel=True)
        ready.unlink()
        partial.rename(file)
    return file


def environment_for(place: Path, needed: Sequence[str] = NEEDED) -> Path:
    """Make an environment with packages that Lathe does not have over this one's, or find it; return its Python.

    Raises subprocess.CalledProcessError where they cannot be installed.
    """
    python = place / "bin/python"
    if not (place / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        own = next(place.glob("lib/python*/site-packages"))
        (own / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *needed], check=True)
        (place / "ready").touch()
    return python


def in_own_environment(python: Path, script: str, *arguments: object) -> dict[str, object]:
    """Run a script of this folder there; return the JSON object that it prints last."""
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found
