"""An image becomes the same input as by transformers' own processors, also by the file that an artifact gets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from compression.modalities.image.preprocessing import ImagePreprocessing, normalized, resized
from compression.schema.errors import ConfigMismatch, MissingFile, UnreadableData

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
STOCK: list[dict[str, Any]] = [
    {"image_processor_type": "ViTImageProcessor"},
    {"image_processor_type": "ViTImageProcessorFast", "size": 30, "resample": 3},
    {"image_processor_type": "ViTImageProcessor", "size": [20, 30], "image_mean": 0.4, "resample": 5},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 30, "resample": 2, **HALF},
    {"image_processor_type": "DeiTImageProcessor", "size": {"height": 40, "width": 44}, "crop_size": 33},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "crop_pct": 0.875},
    {"image_processor_type": "ConvNextImageProcessor", "size": 29, "do_normalize": None},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "crop_size": {"height": 31, "width": 29}},
    {"image_processor_type": "BitImageProcessor", "size": 32, "crop_size": 32, "do_normalize": False, "resample": 0},
    {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": 20, "do_rescale": False, "resample": 1},
    {"image_processor_type": "MobileNetV2ImageProcessor", "rescale_factor": 0.01, "resample": 4},
    {"image_processor_type": "CLIPImageProcessor", "size": 36, "crop_size": {"height": 32, "width": 32}},
    {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 36}, "crop_size": 32},
]


def images() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (high, wide, 3), np.uint8)) for high, wide in ((37, 61), (64, 41), (50, 50))]


def ours(how: ImagePreprocessing, image: Image.Image) -> Any:
    return normalized(resized(image, how, "image")[None], how)[0]


def stock(folder: Path, config: dict[str, Any], image: Image.Image) -> Any:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("config", STOCK, ids=lambda config: "-".join(map(str, config.values()))[:60])
def test_pixels_equal_those_of_stock_processors(config: dict[str, Any], tmp_path: Path) -> None:
    how = ImagePreprocessing.of_transformers(config)
    for image in images():
        expected = stock(tmp_path, config, image)
        assert ours(how, image).shape == (3, *how.size)
        np.testing.assert_array_equal(ours(how, image), expected)
        np.testing.assert_array_equal(stock(tmp_path, how.to_transformers(), image), expected)
    assert ImagePreprocessing.of_transformers(how.to_transformers()) == how


def test_a_model_s_kind_decides_where_the_file_names_no_processor(tmp_path: Path) -> None:
    ImagePreprocessing.of_transformers({}, "resnet")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 64}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    assert ImagePreprocessing.read(tmp_path) == ImagePreprocessing.of_transformers({"size": 64}, "vit")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "network"}))
    with pytest.raises(ConfigMismatch, match="names no image_processor_type"):
        ImagePreprocessing.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"image_processor_type": "DonutImageProcessor"}, "DonutImageProcessor is not supported"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 30}}, "longest_edge"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": "30"}}, "no sides"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "no filter"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": [0.5]}, "three channels"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0, 1, 1]}, "std.0"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 30}}, "different sizes"),
        ({"image_processor_type": "BitImageProcessor", "size": 20, "crop_size": 30}, "do not give"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 30, "width": 30}}, "needs a size with shortest"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 30, "crop_pct": 2}, "not a share"),
        ({"image_processor_type": "ViTImageProcessor", "size": 5000}, "size.0"),
    ],
)
def test_what_would_give_other_pixels_is_refused(config: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigMismatch, match=cause) as problem:
        ImagePreprocessing.of_transformers(config)
    assert problem.value.param == "preprocessor_config.json"
    assert problem.value.remedy_text.startswith(("Save", "Express"))


def test_timm_s_settings_are_read_as_its_evaluation_does() -> None:
    how = ImagePreprocessing.of_timm({"input_size": [3, 30, 30], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0] * 3})
    assert (how.shortest, how.exact, how.crop, how.size) == (33, None, True, (30, 30))
    assert how.std == (0.229, 0.224, 0.225)
    squashed = ImagePreprocessing.of_timm({"input_size": [3, 30, 40], "crop_pct": 1.0, "crop_mode": "squash"})
    assert (squashed.exact, squashed.size) == ((30, 40), (30, 40))
    others = [{"input_size": [1, 30, 30]}, {"input_size": [3, 30, 40]}]
    for changes in ({"crop_mode": "border"}, {"interpolation": "random"}, *others):
        with pytest.raises(ConfigMismatch):
            ImagePreprocessing.of_timm({"input_size": [3, 30, 30], **changes})


def test_images_of_other_sizes_are_refused_where_nothing_resizes_them() -> None:
    how = ImagePreprocessing.of_transformers({"image_processor_type": "ViTImageProcessor", "do_resize": False, "size": 50})
    assert ours(how, images()[2]).shape == (3, 50, 50)
    with pytest.raises(UnreadableData, match=r"photo\.png has 61 × 37 pixels, and the model reads 50 × 50"):
        resized(images()[0], how, "photo.png")


def test_a_narrow_image_does_not_become_a_huge_one() -> None:
    how = ImagePreprocessing.of_transformers({"image_processor_type": "BitImageProcessor"})
    with pytest.raises(UnreadableData, match="so narrow"):
        resized(Image.new("RGB", (20_000, 1)), how, "line.png")


def test_a_folder_without_the_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"preprocessor_config\.json") as problem:
        ImagePreprocessing.read(tmp_path)
    assert "AutoImageProcessor" in problem.value.remedy_text
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ConfigMismatch, match="not a JSON object"):
        ImagePreprocessing.read(tmp_path)
