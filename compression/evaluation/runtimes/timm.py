"""Models of timm, opened as a user opens them, on the CPU or to be scored on a GPU."""

from pathlib import Path

import timm
import torch
from torch import nn

from compression.modalities.scoring.base import Floats as Logits, Inputs
from compression.quantization.precision import full_float32
from compression.system.device import CARD, CPU


class TimmRunner:
    """A classifier of images."""

    def __init__(self, folder: Path, *, threads: int, device: torch.device = CPU) -> None:
        torch.set_num_threads(threads)
        self.device = device
        self.model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(device)
        self.name = f"timm {timm.__version__}, torch {torch.__version__} {device.type.upper()}"

    def logits(self, batch: Inputs) -> Logits:
        """Return the logits of a batch."""
        with torch.inference_mode(), full_float32(self.device):
            answer: Logits = self.model(torch.from_numpy(batch.arrays["pixel_values"]).to(self.device)).cpu().numpy()
        return answer


def open_folder(folder: Path, *, threads: int) -> TimmRunner:
    """Open the model in `folder`. Raises timm's own errors."""
    return TimmRunner(folder, threads=threads)


def open_on_card(folder: Path, example: Inputs, *, threads: int) -> TimmRunner:  # noqa: ARG001 (all of its operators run there)
    """Open the model in `folder` on the GPU. Raises timm's and torch's own errors."""
    return TimmRunner(folder, threads=threads, device=CARD)
