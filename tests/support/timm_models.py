"""Models of timm with weights that are all different, as users send them."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf


def drawn(architecture: str, classes: int) -> torch.nn.Module:
    """Return a model in evaluation mode whose weights and statistics are all drawn."""
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(architecture, num_classes=classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def save_timm(model: torch.nn.Module, folder: Path, *, side: int | None = None, **more: Any) -> Path:
    """Save a model as hubs have it. side: of the images; None if that is the architecture's own."""
    how = {} if side is None else {"data_config": {"input_size": (3, side, side), "crop_pct": 0.875}}
    save_for_hf(model, folder, model_config=more, safe_serialization=True, **how)
    return folder
