"""The image classifiers of transformers that become networks: their stock classes, and the widths that these can have."""

from dataclasses import dataclass

BARE, HEADED = "Model", "ForImageClassification"


@dataclass(frozen=True)
class StockClasses:
    """The stock classes of a model_type."""

    stem: str  #: of their names
    limits: str  #: which widths and blocks their config can express

    @property
    def architectures(self) -> tuple[str, str]:
        """Return the names of the classes with a head and without."""
        return self.stem + HEADED, self.stem + BARE


_CONVNEXT = "A stock config has one width for each stage, and an inner width of its blocks that is four times as wide."
_VIT = "A stock config has one hidden size, one number of heads and one feed-forward width for all layers, which go whole."
STOCK_NETWORKS: dict[str, StockClasses] = {
    "resnet": StockClasses(
        "ResNet",
        "A stock config has one width for each stage, and an inner width that is a quarter of it in bottleneck blocks and "
        "equal to it in others.",
    ),
    "mobilenet_v2": StockClasses(
        "MobileNetV2", "A stock config has one multiplier of all widths and a fixed number of blocks: it expresses few cuts."
    ),
    "convnext": StockClasses("ConvNext", _CONVNEXT),
    "convnextv2": StockClasses("ConvNextV2", _CONVNEXT),
    "vit": StockClasses("ViT", _VIT),
    "deit": StockClasses("DeiT", _VIT),
    "swin": StockClasses(
        "Swin",
        "A stock config has one embedding size, which doubles from stage to stage; heads share it, all feed-forward parts have "
        "one ratio to it, and windows are shifted in every second block of a stage.",
    ),
}
"""By model_type."""
