"""Runs prepared batches in ONNX Runtime, as the model card's code does.

    python -P standalone.py MODEL.onnx FEEDS.npz OUT.npz [SECONDS]

Run it by its path: it needs only numpy and onnxruntime, so the interpreter may be for another machine, under an emulator. FEEDS
has the inputs of batch N as "N.name". OUT receives the outputs in the same format, in order, for as many batches as could start
within SECONDS.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

Arrays = dict[str, npt.NDArray[np.generic]]


def answer(model: str, batches: Sequence[Arrays], seconds: float = float("inf")) -> list[Arrays]:
    """Run batches one by one on one thread; a language model's caches start empty and are not kept."""
    end = time.monotonic() + seconds
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs() if not item.name.startswith("present.")]
    found: list[Arrays] = []
    for given in batches:
        if found and time.monotonic() > end:
            break
        rows = len(next(iter(given.values())))
        feeds = {
            item.name: given[item.name] if item.name in given else np.zeros((rows, item.shape[1], 0, item.shape[3]), np.float32)
            for item in session.get_inputs()
        }
        found.append(dict(zip(names, session.run(names, feeds), strict=True)))
    return found


def read(path: str) -> list[Arrays]:
    """Read batches from a file."""
    found: dict[int, Arrays] = {}
    with np.load(path) as stored:
        for key in stored.files:
            number, _, name = key.partition(".")
            found.setdefault(int(number), {})[name] = stored[key]
    return [found[number] for number in sorted(found)]


def write(path: str, batches: Sequence[Arrays]) -> None:
    """Write batches to a .npz file."""
    stored = {f"{number}.{name}": value for number, batch in enumerate(batches) for name, value in batch.items()}
    np.savez(path, **stored)  # type: ignore[arg-type]  # the keys name arrays


if __name__ == "__main__":
    write(sys.argv[3], answer(sys.argv[1], read(sys.argv[2]), *map(float, sys.argv[4:5])))
