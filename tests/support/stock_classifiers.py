"""Tiny stock image classifiers of transformers with random weights, each with settings that change what it computes."""

from pathlib import Path
from typing import Any

import torch
import transformers

LABELS = ("cat", "dog", "owl")
Size = tuple[int, int]
RESNET: dict[str, Any] = {"embedding_size": 12, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "bottleneck"}
VIT = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 16,
    "patch_size": 8,
}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [4, 8], "depths": [2, 1], "num_stages": 2}
SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [2, 3],
    "num_heads": [2, 2],
    "image_size": 20,
    "patch_size": 2,
    "window_size": 3,
}
NARROW = {"depth_multiplier": 0.1, "min_depth": 4, "depth_divisible_by": 4}
CLASSIFIERS: dict[str, tuple[str, Size, dict[str, Any]]] = {
    "resnet": ("ResNet", (40, 32), RESNET),
    "resnet-basic": (
        "ResNet",
        (32, 32),
        {**RESNET, "layer_type": "basic", "hidden_sizes": [8, 16], "downsample_in_first_stage": True, "hidden_act": "silu"},
    ),
    "resnet-strides": (
        "ResNet",
        (32, 32),
        {**RESNET, "downsample_in_first_stage": True, "downsample_in_bottleneck": True, "hidden_act": "leaky_relu"},
    ),
    "mobilenet": ("MobileNetV2", (45, 50), NARROW),
    "mobilenet-dilated": (
        "MobileNetV2",
        (40, 33),
        {
            **NARROW,
            "tf_padding": False,
            "output_stride": 8,
            "first_layer_is_expansion": False,
            "finegrained_output": False,
            "expand_ratio": 2.5,
            "hidden_act": "hardswish",
            "layer_norm_eps": 0.01,
        },
    ),
    "convnext": ("ConvNext", (40, 36), {**CONVNEXT, "layer_scale_init_value": 0.5}),
    "convnext-unscaled": (
        "ConvNext",
        (30, 30),
        {
            "hidden_sizes": [4, 8, 8],
            "depths": [1, 2, 1],
            "num_stages": 3,
            "layer_scale_init_value": 0.0,
            "patch_size": 3,
            "hidden_act": "gelu_new",
        },
    ),
    "convnextv2": ("ConvNextV2", (40, 36), CONVNEXT),
    "convnextv2-relu": (
        "ConvNextV2",
        (32, 32),
        {**CONVNEXT, "patch_size": [4, 2], "hidden_act": "relu", "layer_norm_eps": 0.1},
    ),
    "vit": ("ViT", (16, 16), VIT),
    "vit-heads": ("ViT", (20, 16), {**VIT, "qkv_bias": False, "head_dim": 5, "image_size": [20, 16], "hidden_act": "mish"}),
    "deit": ("DeiT", (16, 16), VIT),
    "deit-unbiased": ("DeiT", (16, 16), {**VIT, "qkv_bias": False, "patch_size": 4, "layer_norm_eps": 0.01}),
    "swin": ("Swin", (20, 20), SWIN),
    "swin-padded": ("Swin", (30, 17), {**SWIN, "qkv_bias": False, "mlp_ratio": 2.55}),
    "swin-whole-map": ("Swin", (20, 20), {**SWIN, "window_size": 5, "use_absolute_embeddings": True}),
}
"""Name → of the stock class, the size of its images, its settings."""


def stock_classifier(name: str, **settings: Any) -> tuple[transformers.PreTrainedModel, Size]:
    """Return a classifier of three labels with weights and statistics that matter, and the size of its images."""
    stem, size, own = CLASSIFIERS[name]
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: number for number, label in enumerate(LABELS)}}
    torch.manual_seed(0)
    config = getattr(transformers, f"{stem}Config")(**own, **names, **settings)
    model = getattr(transformers, f"{stem}ForImageClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for called, buffer in model.named_buffers():
            if called.endswith("running_mean"):
                buffer.normal_()
            elif called.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model, size


def saved_classifier(name: str, folder: Path) -> tuple[transformers.PreTrainedModel, Size]:
    """Save a classifier of `stock_classifier` as stock code does, and return it."""
    model, size = stock_classifier(name)
    model.save_pretrained(folder)
    return model, size
