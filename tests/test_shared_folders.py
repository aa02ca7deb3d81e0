"""Folders that all kinds of data share name none of them: what they need to know, adapters and modalities say."""

import re
from collections.abc import Iterator

from tests.conftest import ROOT

SHARED = ("engine", "training", "distillation")
OF_IMAGES = re.compile(r"\b(image|pixel|conv|convolution|convolutional)(s|[123]d)?\b", re.IGNORECASE)
PARTS_OF_NAMES = re.compile(r"_|(?<=[a-z0-9])(?=[A-Z])")


def lines_that_name_images(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if OF_IMAGES.search(PARTS_OF_NAMES.sub(" ", line)))


def test_the_words_are_found_within_names_too() -> None:
    named = ["class ImageBatch:", "inputs['pixel_values']", "nn.Conv2d(3, 8, 3)", "IMAGE_FILES", "a convolution's", "of images"]
    others = ["convert(model)", "has converged", "a convention", "imagine", "channels, maps and views"]
    assert [*lines_that_name_images("\n".join((*named, *others)))] == named


def test_shared_folders_name_no_images() -> None:
    files = [path for folder in SHARED for path in sorted((ROOT / "compression" / folder).rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): [*lines_that_name_images(path.read_text("utf-8"))] for path in files}
    assert len(found) > 50
    assert {name: lines for name, lines in found.items() if lines} == {}
