"""Compares an int8 ONNX file's predictions under AVX2, emulated by qemu-user, with this machine's.

x86 without VNNI multiplies uint8 by int8 with other instructions, which saturate if weights are beyond ±63. The emulated
process is a fresh interpreter with only ONNX Runtime (`runtimes.standalone`), about twenty times slower than this machine.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from compression.evaluation.runtimes import standalone
from compression.evaluation.runtimes.onnx import FILE
from compression.evaluation.runtimes.standalone import Arrays
from compression.modalities.scoring.base import Inputs
from compression.quantization.fake_quantize import Simulation
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared

EMULATOR, PROCESSOR, NAME = "qemu-x86_64", "Haswell", "AVX2"
ROWS = 32
SHARE = 0.8  #: share of the time limit in which rows may start: the last one has to finish too
DIFFERENT = 1e-2
"""Tolerance for regression, relative to the largest prediction: two predictions further apart count as different."""
FULL_RANGE = (
    "Its weights are within ±127: set recipe.quantize.portable to true, or open the file with the session option "
    "session.x64quantprecision = 1 on processors without VNNI."
)
PORTABLE = "Its products are exact there, so rounding decides close calls: score the file on such a processor before use."


@cache
def hindrance() -> str | None:
    """Return why this machine cannot compare predictions, or None if it can."""
    if platform.machine() != "x86_64":
        return f"this machine is {platform.machine()}, and what is emulated is x86"
    return None if shutil.which(EMULATOR) else "qemu-user is not installed on the worker"


def compare(
    folder: Path, asked: Sequence[Inputs], simulation: Simulation, seconds: float | None
) -> ComparedAnswers | NotCompared:
    """Compare the predictions for the first ROWS batches of one row; nothing if `seconds`, the time limit, is 0 or None."""
    if not seconds:
        return NotCompared(not_compared="the worker is set to compare nothing (LATHE_EMULATE_SECONDS)")
    if (cause := hindrance()) is not None:
        return NotCompared(not_compared=cause)
    feeds = [feeds_of(batch) for batch in asked if batch.shape[0] == 1][:ROWS]
    try:
        found = emulated(folder / FILE, feeds, seconds)
    except subprocess.TimeoutExpired:
        return NotCompared(not_compared=f"under {NAME} no row was answered within {seconds:g} s")
    except (subprocess.CalledProcessError, OSError) as problem:
        output = getattr(problem, "stderr", None) or str(problem)
        return NotCompared(not_compared=f"{EMULATOR} failed: {output[-300:]}")
    expected = standalone.answer(str(folder / FILE), feeds[: len(found)])
    answers, changed, largest = differences(expected, found)
    remedy = None if changed == 0 else PORTABLE if simulation.portable else FULL_RANGE
    return ComparedAnswers(
        instruction_set=NAME,
        emulator=f"{EMULATOR} -cpu {PROCESSOR}",
        rows=len(found),
        answers=answers,
        changed=changed,
        largest_difference=largest,
        remedy=remedy,
    )


def feeds_of(batch: Inputs) -> Arrays:
    """Return every input that a file may read for a batch, including a decoder's position_ids."""
    arrays = dict(batch.arrays)
    if "attention_mask" in arrays:
        arrays["position_ids"] = np.maximum(arrays["attention_mask"].cumsum(axis=1) - 1, 0)
    return arrays


def emulated(model: Path, feeds: Sequence[Arrays], seconds: float) -> list[Arrays]:
    """Predict batches under the emulated processor. Raises the errors of `subprocess.run`."""
    return ask([EMULATOR, "-cpu", PROCESSOR, sys.executable], model, feeds, seconds)


def ask(
    interpreter: Sequence[str], model: Path, feeds: Sequence[Arrays], seconds: float, packages: Path | None = None
) -> list[Arrays]:
    """Predict batches in a separate process, as many as `seconds` allow. Raises the errors of `subprocess.run`. interpreter:
    the command line of a Python, under an emulator or not; packages: the folder of numpy and onnxruntime for it.
    """
    # OpenBLAS settings of this machine may choose kernels with instructions that the emulated processor lacks.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    with tempfile.TemporaryDirectory(prefix="emulated-") as place:
        given, found = Path(place) / "feeds.npz", Path(place) / "found.npz"
        standalone.write(str(given), feeds)
        files = (str(model), str(given), str(found), str(SHARE * seconds))
        subprocess.run(
            [*interpreter, "-P", standalone.__file__, *files],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=seconds,
            check=True,
        )
        return standalone.read(str(found))


def differences(expected: Sequence[Arrays], found: Sequence[Arrays]) -> tuple[int, int, float]:
    """Compare predictions. -> their number, how many differ, the largest difference of a logit."""
    answers = changed = 0
    largest = 0.0
    scale = max((float(np.abs(logits).max()) for one in expected for logits in one.values()), default=0.0)
    for one, other in zip(expected, found, strict=True):
        for name, logits in one.items():
            wanted, got = (np.asarray(values, np.float64) for values in (logits, other[name]))
            largest = max(largest, float(np.abs(wanted - got).max()))
            if wanted.shape[-1] == 1:  # a regression's prediction is the number itself
                different = np.abs(wanted - got) > DIFFERENT * scale
            else:
                different = wanted.argmax(axis=-1) != got.argmax(axis=-1)
            answers, changed = answers + different.size, changed + int(different.sum())
    return answers, changed, largest


def difference_note(found: ComparedAnswers | NotCompared | None) -> str | None:
    """Return a note about predictions that differ, or None if none does."""
    if not isinstance(found, ComparedAnswers) or found.equal:
        return None
    return (
        f"Under {found.instruction_set} ({found.emulator}) {found.changed} of {found.answers} answers to {found.rows} sample "
        f"rows differ from this machine's, logits by up to {found.largest_difference:.2g}. {found.remedy}"
    )
