"""Answers and times of ONNX files of image classifiers, by stock ONNX Runtime as users run them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from bench.vision.cifar_resnet import DEVIATION, MEAN
from compression.evaluation.runtimes.onnx import EXACT_PRODUCTS, has_vnni

WARM_UP, RUNS = 20, 200
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
DRAWS = 2000
"""Resamples, so that the 2.5th percentile rests on fifty of them."""


def session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a file with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not has_vnni():
        # As a job measures: without it products of weights beyond ±63 overflow.
        options.add_session_config_entry(*EXACT_PRODUCTS)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def normalized(images: Pixels) -> Floats:
    """(rows, height, width, 3) -> (rows, 3, height, width), as the networks of CIFAR-10 were trained."""
    scaled = (images / 255 - np.array(MEAN)) / np.array(DEVIATION)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def answers(file: Path, images: Pixels, threads: int = 2, inputs: Callable[[Pixels], Floats] = normalized) -> list[int]:
    """Return the number of the best output of each image, one image at a time. inputs: makes a network's input of images."""
    opened = session(file, threads)
    name = opened.get_inputs()[0].name
    return [int(opened.run(None, {name: inputs(image[None])})[0][0].argmax()) for image in images]


def rows_of(file: Path, classes: Sequence[str]) -> tuple[Pixels, list[int]]:
    """Return the images (rows, height, width, 3) of an npz file and the numbers of their labels."""
    with np.load(file, allow_pickle=False) as found:
        return found["image"], [classes.index(str(label)) for label in found["label"]]


def times(files: Mapping[str, Path], size: int, batch: int, threads: int = 1) -> dict[str, float]:
    """Return the median milliseconds of each file, timed by turns in this process, so that other load affects all."""
    sessions = {name: session(file, threads) for name, file in files.items()}
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    found: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(WARM_UP + max(20, RUNS // batch)):
        order = list(sessions) if turn % 2 == 0 else list(reversed(sessions))
        for name in order:
            feed = {sessions[name].get_inputs()[0].name: images}
            start = time.perf_counter_ns()
            sessions[name].run(None, feed)
            if turn >= WARM_UP:
                found[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in found.items()}


@dataclass(frozen=True)
class Against:
    """Points of accuracy, and how many more than the original's, with the 95 % interval of that difference."""

    score: float
    points: float
    low: float
    high: float


def against(original: Sequence[int], seeds: Sequence[Sequence[int]], wanted: Sequence[int]) -> Against:
    """Compare the mean of the seeds with the original: a paired bootstrap over the images (Efron & Tibshirani 1993).

    Seeds are not resampled: the interval is that of other images for these very models.
    """
    right = (np.array(seeds) == np.array(wanted)).mean(axis=0)
    gaps = right - (np.array(original) == np.array(wanted))
    drawn = np.random.default_rng(0).integers(0, len(gaps), (DRAWS, len(gaps)))
    low, high = np.percentile(100 * gaps[drawn].mean(axis=1), [2.5, 97.5])
    return Against(100 * float(right.mean()), 100 * float(gaps.mean()), float(low), float(high))
