"""How an image becomes a network's input, as a model's files say it: preprocessor_config.json, or timm's pretrained_cfg.

`modalities.image.pixels` carries it out with Pillow.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from compression.models.files.json_file import BadJson, read_file
from compression.schema.config import Config
from compression.schema.errors import ConfigMismatch, MissingFile

FILE = "preprocessor_config.json"
MOST_PIXELS_A_SIDE = 4096
MOST_BYTES = 16 << 20  #: of a JSON file
Side = Annotated[int, Field(ge=1, le=MOST_PIXELS_A_SIDE)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6)]
Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's number, which is the value of `resample` in preprocessor_config.json."""


class ImagePreprocessing(Config):
    """What is done to an RGB image of 8 bits, in this order: resize, cut out the centre, multiply, subtract, divide."""

    size: Annotated[tuple[Side, Side], Field(description="Height and width of the network's input.")]
    exact: Annotated[tuple[Side, Side] | None, Field(description="Resize to this height and width, whatever the shape.")] = None
    shortest: Annotated[Side | None, Field(description="Or resize the shorter side to this, and keep the shape.")] = None
    crop: bool = False
    """Cut out the centre, of `size`; one pixel more is left below and on the right if the margin is odd. Without it, and
    without a resize, images must have that size."""
    interpolation: Interpolation = "bilinear"
    scale: Annotated[float, Field(gt=0, le=1e6, description="What a pixel's value from 0 to 255 is multiplied by.")] = 1 / 255
    mean: tuple[Number, Number, Number] = (0.0, 0.0, 0.0)
    std: tuple[Deviation, Deviation, Deviation] = (1.0, 1.0, 1.0)
    channels: Literal["rgb", "bgr"] = "rgb"

    @model_validator(mode="after")
    def _ends_at_its_size(self) -> Self:
        if self.exact is not None and self.shortest is not None:
            raise ValueError("an image is resized to an exact size or by its shorter side, not both")
        if self.shortest is not None and not self.crop:
            raise ValueError("images resized by their shorter side have different sizes unless the centre is cut out")
        resized = self.exact or ((self.shortest, self.shortest) if self.shortest is not None else self.size)
        if any(side < wanted for side, wanted in zip(resized, self.size, strict=True)) or (
            not self.crop and resized != self.size
        ):
            raise ValueError(f"images of {resized[0]} × {resized[1]} do not give {self.size[0]} × {self.size[1]}")
        if self.channels == "bgr" and (any(self.mean) or set(self.std) != {1.0}):
            raise ValueError("blue, green, red cannot be combined with a mean and a deviation: no stock processor does both")
        return self

    @classmethod
    def of_transformers(cls, config: Mapping[str, Any], model_type: str | None = None) -> Self:
        """Read preprocessor_config.json as transformers 5 does with its Pillow backend.

        model_type: of config.json, which decides where the file names no processor. Raises ConfigMismatch for a processor, or a
        setting, that would give other pixels than this class can.
        """
        name, defaults = _processor(config, model_type)
        # Null leaves a step out; other settings are not set by it.
        given = {key: value for key, value in config.items() if value is not None or key.startswith("do_")}
        if surplus := sorted(key for key, value in given.items() if key.startswith("do_") and value and key not in KNOWN):
            raise _refused(f"{name} with {surplus[0]} is not supported")
        found = _Settings(name, {**defaults, **given})
        return cls.checked(**found.geometry(), **found.arithmetic())

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> Self:
        """Read timm's pretrained_cfg, as `timm.data.create_transform` does for evaluation. Raises ConfigMismatch.

        Where the margin around the centre is odd, timm may cut it out one pixel further right or below.
        """
        channels, height, width = _whole(config.get("input_size", (3, 224, 224)), 3, "input_size")
        share, mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
        if channels != 3:
            raise _refused(f"input_size has {channels} channels; images have 3")
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise _refused(f"crop_pct is {share!r:.60}, not a share")
        scaled = math.floor(height / share), math.floor(width / share)
        if mode not in ("center", "squash") or (mode == "center" and scaled[0] != scaled[1]):
            raise _refused(f"crop_mode {mode!r:.60} of {height} × {width} is not supported")
        return cls.checked(
            size=(height, width),
            exact=scaled if mode == "squash" else None,
            shortest=scaled[0] if mode == "center" else None,
            crop=True,
            interpolation=config.get("interpolation") or "bicubic",
            mean=_numbers(config.get("mean", IMAGENET[0]), "mean"),
            std=_numbers(config.get("std", IMAGENET[1]), "std"),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a model's folder: preprocessor_config.json, and config.json for its kind; of timm's models config.json alone.

        Raises MissingFile and ConfigMismatch.
        """
        if not (folder / FILE).is_file():
            if (own := _of_timm(folder)) is not None:
                return cls.of_timm(own)
            remedy = "Add it: AutoImageProcessor.from_pretrained(MODEL).save_pretrained(FOLDER) writes it."
            raise MissingFile(f"the model has no {FILE}", param=FILE, remedy=remedy)
        try:
            found = read_file(folder / FILE, MOST_BYTES)
            named = "image_processor_type" in found or not (folder / "config.json").is_file()
            config = {} if named else read_file(folder / "config.json", MOST_BYTES)
        except BadJson as problem:
            raise _refused(str(problem)) from problem
        return cls.of_transformers(found, config.get("model_type"))

    @classmethod
    def checked(cls, **settings: Any) -> Self:
        """Create one. Raises ConfigMismatch."""
        try:
            return cls(**settings)
        except ValidationError as problem:
            first = problem.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise _refused(f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")) from problem

    def to_transformers(self) -> dict[str, Any]:
        """Return a preprocessor_config.json with which stock AutoImageProcessor gives these pixels.

        BitImageProcessor resizes by either way and cuts out the centre, also in transformers 4.
        """
        (height, width), flips = self.size, self.channels == "bgr"
        resized = {"shortest_edge": self.shortest} if self.exact is None else dict(zip(HEIGHT_WIDTH, self.exact, strict=True))
        resizes = self.exact is not None or self.shortest is not None
        return {
            "image_processor_type": "MobileViTImageProcessor" if flips else "BitImageProcessor",
            "do_convert_rgb": True,
            "do_resize": resizes,
            "size": resized if resizes else {"height": height, "width": width},
            "resample": INTERPOLATIONS.index(self.interpolation),
            "do_center_crop": self.crop,
            "crop_size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": not flips,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            **({"do_flip_channel_order": True} if flips else {}),
        }

    def geometry(self) -> "ImagePreprocessing":
        """Return the steps up to the cut-out centre alone."""
        kept = self.model_dump(include={"size", "exact", "shortest", "crop", "interpolation"})
        return ImagePreprocessing(**kept)

    def write(self, folder: Path) -> None:
        """Write preprocessor_config.json."""
        (folder / FILE).write_text(json.dumps(self.to_transformers(), indent=2) + "\n", "utf-8")


def _of_timm(folder: Path) -> dict[str, Any] | None:
    """Return a timm model's pretrained_cfg; None if config.json has none."""
    try:
        found = read_file(folder / "config.json", MOST_BYTES).get("pretrained_cfg")
    except (BadJson, OSError):
        return None
    return found if isinstance(found, dict) else None


HEIGHT_WIDTH = ("height", "width")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF: dict[str, Any] = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), "rescale_factor": 1 / 255}
_CLIP: dict[str, Any] = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "rescale_factor": 1 / 255,
}
_ALL: dict[str, Any] = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False}
_CROPPED: dict[str, Any] = {**_ALL, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_SHORTEST: dict[str, Any] = {"square": False, "resample": 3}
_MOBILE: dict[str, Any] = {**_CROPPED, **_HALF, "size": {"shortest_edge": 256}, "resample": 2, "square": False}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {**_ALL, **_HALF, "size": {"height": 224, "width": 224}, "resample": 2},
    "DeiTImageProcessor": {**_CROPPED, **_HALF, "size": {"height": 256, "width": 256}, "resample": 3},
    "ConvNextImageProcessor": {**_ALL, **_HALF, **_SHORTEST, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "BitImageProcessor": {**_CROPPED, **_CLIP, **_SHORTEST, "size": {"shortest_edge": 224}},
    "CLIPImageProcessor": {**_CROPPED, **_CLIP, **_SHORTEST, "size": {"shortest_edge": 224}},
    "MobileNetV1ImageProcessor": _MOBILE,
    "MobileNetV2ImageProcessor": _MOBILE,
    "MobileViTImageProcessor": {
        **_CROPPED,
        **_HALF,
        **_SHORTEST,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 256, "width": 256},
        "do_flip_channel_order": True,
    },
}
"""The defaults of transformers' processors; `square`: whether one number is both sides, not the shorter one."""
OF_MODELS = {
    "resnet": "ConvNextImageProcessor",
    "convnext": "ConvNextImageProcessor",
    "convnextv2": "ConvNextImageProcessor",
    "mobilenet_v2": "MobileNetV2ImageProcessor",
    "vit": "ViTImageProcessor",
    "deit": "DeiTImageProcessor",
    "swin": "ViTImageProcessor",
}
"""The processors of models whose files name none."""
KNOWN = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order"}
CONVNEXT_CROPS_BELOW = 384


@dataclass(frozen=True)
class _Settings:
    """The settings of one of transformers' processors, its defaults filled in."""

    name: str
    values: Mapping[str, Any]

    def geometry(self) -> dict[str, Any]:
        """Return the fields about sizes."""
        values, size = self.values, self.side("size") if self.values["do_resize"] else {}
        found: dict[str, Any] = {"exact": None, "shortest": None, "crop": bool(values["do_center_crop"])}
        if self.name == "ConvNextImageProcessor" and size:
            found |= self._convnext(size)
        elif "shortest_edge" in size:
            found["shortest"] = size["shortest_edge"]
        elif size:
            found["exact"] = size["height"], size["width"]
        if values["do_center_crop"]:
            crop = self.side("crop_size", square=True)
            if "size" in found and found["size"] != (crop["height"], crop["width"]):
                raise _refused("crop_size differs from what crop_pct cuts out")
            found["size"] = crop["height"], crop["width"]
        if "size" not in found:
            if found["exact"] is None and found["shortest"] is None:  # images as they are: the file still says their size
                plain = self.side("size", square=True)
                found["size"] = plain.get("height"), plain.get("width")
            else:
                found["size"] = found["exact"] or (found["shortest"],) * 2
        return found

    def _convnext(self, size: Mapping[str, int]) -> dict[str, Any]:
        if "shortest_edge" not in size:
            raise _refused("ConvNextImageProcessor needs a size with shortest_edge")
        side, share = size["shortest_edge"], self.values["crop_pct"]
        if side >= CONVNEXT_CROPS_BELOW:
            return {"exact": (side, side), "size": (side, side)}
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise _refused(f"crop_pct is {share!r:.60}, not a share")
        return {"shortest": int(side / share), "crop": True, "size": (side, side)}

    def arithmetic(self) -> dict[str, Any]:
        """Return the fields about the values of pixels."""
        values, flips = self.values, bool(self.values.get("do_flip_channel_order")) and "MobileViT" in self.name
        number = values["resample"]
        if type(number) is not int or not 0 <= number < len(INTERPOLATIONS):
            raise _refused(f"resample is {number!r:.60}, which is no filter of Pillow")
        found = {
            "interpolation": INTERPOLATIONS[number],
            "scale": values["rescale_factor"] if values["do_rescale"] else 1.0,
            "channels": "bgr" if flips else "rgb",
        }
        if values["do_normalize"] and "MobileViT" not in self.name:  # which has the setting, and does not use it
            found |= {"mean": _numbers(values["image_mean"], "image_mean"), "std": _numbers(values["image_std"], "image_std")}
        return found

    def side(self, key: str, *, square: bool | None = None) -> dict[str, int]:
        """Return a size as {height, width} or {shortest_edge}, from one of the forms that stock code reads."""
        value = self.values.get(key)
        both = self.values.get("default_to_square", self.values.get("square", True)) if square is None else square
        if type(value) is int:
            value = {"height": value, "width": value} if both else {"shortest_edge": value}
        elif isinstance(value, list | tuple):
            value = dict(zip(HEIGHT_WIDTH, _whole(value, 2, key), strict=True))
        if isinstance(value, dict):
            value = {name: one for name, one in value.items() if one is not None}
        if not isinstance(value, dict) or set(value) not in ({"height", "width"}, {"shortest_edge"}):
            raise _refused(f"{key} is {value!r:.100}, not {{height, width}} or {{shortest_edge}}")
        if any(type(one) is not int for one in value.values()) or (square and "height" not in value):
            raise _refused(f"{key} is {value!r:.100}, which are no sides in pixels")
        return value


def _processor(config: Mapping[str, Any], model_type: str | None) -> tuple[str, dict[str, Any]]:
    named = config.get("image_processor_type") or config.get("feature_extractor_type") or OF_MODELS.get(str(model_type))
    if named is None:
        raise _refused("it names no image_processor_type", "Name one of " + ", ".join(PROCESSORS) + ".")
    name = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if name not in PROCESSORS:
        raise _refused(f"{name:.100} is not supported", "Express its steps as one of " + ", ".join(PROCESSORS) + ".")
    return name, PROCESSORS[name]


def _numbers(value: Any, key: str) -> tuple[Any, ...]:
    """Return three numbers: those given, or one for all channels."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,) * 3
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise _refused(f"{key} is {value!r:.100}, not a number for each of three channels")
    return tuple(value)


def _whole(value: Any, count: int, key: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) != count or any(type(one) is not int for one in value):
        raise _refused(f"{key} is {value!r:.100}, not {count} whole numbers")
    return tuple(value)


def _refused(cause: str, remedy: str | None = None) -> ConfigMismatch:
    usual = "Save the processor again with one of transformers' common settings: resize, centre crop, rescale, normalize."
    return ConfigMismatch(f"the preprocessing of images cannot be used: {cause}", param=FILE, remedy=remedy or usual)
