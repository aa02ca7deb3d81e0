"""The ResNets of CIFAR-10 with trained weights (../shared/data/vision, its README) as folders that a user would upload.

He et al. 2016, section 4.2: three stages of n basic blocks with 16, 32 and 64 channels; shortcuts without weights (option A):
every second pixel, and zeros for the channels that are new.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WEIGHTS = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(MEAN),
    "image_std": list(DEVIATION),
}
VALIDATION, SEED = 1_000, 20261128
"""Rows of train that are validation, and the seed that draws them: the same in every run."""


class Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.new, self.stride = channels - before, stride

    def forward(self, x: Tensor) -> Tensor:
        """(rows, before, height, width) -> (rows, channels, height / stride, width / stride)."""
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.new or self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """(rows, 3, 32, 32) -> (rows, 10)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks, before = (depth - 2) // 6, 16
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for number, channels in enumerate((16, 32, 64), 1):
            stage = [Block(before if at == 0 else channels, channels, 2 if at == 0 < number - 1 else 1) for at in range(blocks)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            before = channels
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        out: Tensor = self.linear(x.mean(dim=(2, 3)))
        return out


def trained(depth: int, data: Path) -> CifarResNet:
    """Return the network with the weights of `data`, in evaluation mode."""
    saved = torch.load(data / WEIGHTS[depth], map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(depth)
    network.load_state_dict({name.removeprefix("module."): value for name, value in saved.items()})
    return network.eval()


def write_model(
    network: nn.Module,
    folder: Path,
    size: int = 32,
    classes: tuple[str, ...] = CLASSES,
    preprocessor: Mapping[str, object] = PREPROCESSOR,
) -> Path:
    """Write model.onnx, its preprocessing and the names of its classes into a folder. preprocessor: without its size."""
    folder.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(2, 3, size, size)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    # Not optimized: that would fold batch normalization, whose statistics the training after a cut estimates again.
    torch.onnx.export(
        network, (example,), folder / "model.onnx", dynamo=True, dynamic_shapes=shapes, external_data=False, optimize=False
    )
    own = {**preprocessor, "size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(own, indent=1), encoding="utf-8")
    labels = {"id2label": {str(number): name for number, name in enumerate(classes)}}
    (folder / "config.json").write_text(json.dumps(labels, indent=1), encoding="utf-8")
    return folder


def write_data(data: Path, folder: Path, train_rows: int | None = None) -> Path:
    """Write train.npz, validation.npz (drawn from train, the same rows each time) and test.npz into a folder.

    train_rows: the number of rows of train to keep, for a trial.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = np.array(CLASSES)
    whole, test = (np.load(data / name, allow_pickle=False) for name in ("cifar10_train_10k.npz", "cifar10_test_2k.npz"))
    order = np.random.default_rng(SEED).permutation(len(whole["y"]))
    parts = {"validation": order[:VALIDATION], "train": order[VALIDATION:][:train_rows]}
    for split, rows in parts.items():
        np.savez(folder / f"{split}.npz", image=whole["x"][rows], label=names[whole["y"][rows]])
    np.savez(folder / "test.npz", image=test["x"], label=names[test["y"]])
    return folder
