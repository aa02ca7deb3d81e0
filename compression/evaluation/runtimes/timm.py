"""Models of timm on the CPU, opened as a user opens them."""

from pathlib import Path

import timm
import torch
from torch import nn

from compression.modalities.scoring.base import Floats as Logits, Inputs


class TimmRunner:
    """A classifier of images."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.name = f"timm {timm.__version__}, torch {torch.__version__} CPU"

    def logits(self, batch: Inputs) -> Logits:
        """Return the logits of a batch."""
        with torch.inference_mode():
            answer: Logits = self.model(torch.from_numpy(batch.arrays["pixel_values"])).numpy()
        return answer


def open_folder(folder: Path, *, threads: int) -> TimmRunner:
    """Open the model in `folder`. Raises timm's own errors."""
    return TimmRunner(folder, threads=threads)
