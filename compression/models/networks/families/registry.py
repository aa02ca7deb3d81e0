"""The families of stock image classifiers by model_type, and the way from a network back to its stock checkpoint."""

from typing import Any

from compression.models.networks.families.convnext import CONVNEXT, CONVNEXT_V2
from compression.models.networks.families.family import StockFamily
from compression.models.networks.families.mobilenet_v2 import MOBILENET_V2
from compression.models.networks.families.resnet import RESNET
from compression.models.networks.families.swin import SWIN
from compression.models.networks.families.vit import DEIT, VIT

FAMILIES: dict[str, StockFamily[Any]] = {
    family.kind: family for family in (RESNET, MOBILENET_V2, CONVNEXT, CONVNEXT_V2, VIT, DEIT, SWIN)
}
"""model_type → its family."""
