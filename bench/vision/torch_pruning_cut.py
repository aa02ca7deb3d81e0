"""torch-pruning's L1 cut of a ResNet of CIFAR-10, and a plain script's distillation; prints what the cut costs.

As one would write it by hand: the inner channels of all blocks cut alike to SHARE of the multiply-adds, rounded to 4 (it cannot
follow the residual streams through shortcuts of strides and zeros); then 24 epochs of soft targets at τ = 4 with the original
as the teacher on the same view (crops of 4 pixels, flips), SGD with momentum 0.9 at 0.01 on a cosine, the last weights.
It runs in an environment of its own, which has torch-pruning.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.vision.cifar_resnet import WEIGHTS, Block, trained
from bench.vision.compare import normalized

EPOCHS, RATE, BATCH, TEMPERATURE = 24, 0.01, 64, 4.0


def varied(images: Tensor, draw: torch.Generator) -> Tensor:
    """Cut a part of each padded image and mirror every other one."""
    rows, size = len(images), images.shape[-1]
    padded = functional.pad(images, (4, 4, 4, 4))
    at = torch.randint(0, 9, (rows, 2), generator=draw).tolist()
    out = torch.stack([one[:, y : y + size, x : x + size] for one, (y, x) in zip(padded, at, strict=True)])
    mirrored = torch.rand(rows, generator=draw) < 0.5
    out[mirrored] = out[mirrored].flip(-1)
    return out


def distilled(student: nn.Module, teacher: nn.Module, images: Tensor, seed: int) -> None:
    """Train the student in place. images: (rows, 3, height, width)."""
    draw = torch.Generator().manual_seed(seed)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    student.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(images), generator=draw)
        for at in range(0, BATCH * (len(images) // BATCH), BATCH):
            batch = varied(images[order[at : at + BATCH]], draw).contiguous(memory_format=torch.channels_last)  # faster
            with torch.no_grad():
                wanted = (teacher(batch) / TEMPERATURE).softmax(-1)
            loss = functional.kl_div((student(batch) / TEMPERATURE).log_softmax(-1), wanted, reduction="batchmean")
            optimizer.zero_grad()
            torch.autograd.backward(loss * TEMPERATURE**2)
            optimizer.step()
            schedule.step()
    student.eval()


def main() -> None:
    """Cut, distill and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("depth", type=int, choices=sorted(WEIGHTS))
    parser.add_argument("weights", type=Path, help="folder of the trained weights")
    parser.add_argument("data", type=Path, help="folder of train.npz")
    parser.add_argument("share", type=float, help="of the multiply-adds, what stays")
    parser.add_argument("seed", type=int)
    parser.add_argument("file", help="the ONNX file to write, float32")
    asked = parser.parse_args()
    import torch_pruning  # type: ignore[import-not-found]  # not where the parser's help is asked for

    torch.manual_seed(asked.seed)
    example = torch.zeros(1, 3, 32, 32)
    teacher, student = trained(asked.depth, asked.weights), trained(asked.depth, asked.weights)
    streams = [student.conv1, *(block.conv2 for block in student.modules() if isinstance(block, Block))]
    before, _ = torch_pruning.utils.count_ops_and_params(student, example)
    pruner = torch_pruning.pruner.MagnitudePruner(
        student,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.9,
        iterative_steps=60,
        ignored_layers=[student.linear, *streams],
        round_to=4,
    )
    for _ in range(60):
        now, _ = torch_pruning.utils.count_ops_and_params(student, example)
        if now <= asked.share * before:
            break
        pruner.step()
    now, parameters = torch_pruning.utils.count_ops_and_params(student, example)
    images = torch.from_numpy(normalized(np.load(asked.data / "train.npz", allow_pickle=False)["image"]))
    distilled(student, teacher, images, asked.seed)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    example = example.expand(2, -1, -1, -1).contiguous()
    torch.onnx.export(student, (example,), asked.file, dynamo=True, dynamic_shapes=shapes, external_data=False)
    print(json.dumps({"multiply_adds": int(now), "whole": int(before), "parameters": int(parameters)}))


if __name__ == "__main__":
    main()
