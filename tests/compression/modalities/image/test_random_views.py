"""Each random view of an image is what its name says."""

import numpy as np
import pytest
from PIL import Image

from compression.modalities.image.random_views import _OPERATIONS, enlarged_part, rand_augmented, shifted, varied
from compression.schema.recipe.views import Views

RAMP = np.dstack([*np.meshgrid(np.arange(1, 17) * 9, np.arange(1, 13) * 9)[::-1], np.full((12, 16), 99)]).astype(np.uint8)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_shift_moves_the_image_and_brings_black_in() -> None:
    places = set()
    for seed in range(40):
        found = shifted(RAMP, 2, draw(seed))
        assert found.shape == RAMP.shape
        inside = found[2:-2, 2:-2]
        down, right = int(RAMP[2, 2, 0]) - int(inside[0, 0, 0]), int(RAMP[2, 2, 1]) - int(inside[0, 0, 1])
        places.add((down // 9, right // 9))
        expected = np.zeros_like(RAMP)
        rows, columns = np.mgrid[0:12, 0:16]
        rows, columns = rows - down // 9, columns - right // 9
        known = (rows >= 0) & (rows < 12) & (columns >= 0) & (columns < 16)
        expected[known] = RAMP[rows[known], columns[known]]
        np.testing.assert_array_equal(found, expected)
    assert len(places) > 10
    assert max(abs(each) for place in places for each in place) == 2


def test_a_flip_mirrors_every_other_image() -> None:
    found = varied(np.stack([RAMP] * 40), Views(flip=True), draw())
    mirrored = [np.array_equal(one, RAMP[:, ::-1]) for one in found]
    assert all(flipped or np.array_equal(one, RAMP) for one, flipped in zip(found, mirrored, strict=True))
    assert 10 < sum(mirrored) < 30


def test_a_part_is_enlarged_to_the_whole_size() -> None:
    whole, spans = RAMP.astype(int), []
    for seed in range(30):
        found = enlarged_part(RAMP, 0.2, draw(seed)).astype(int)
        assert found.shape == RAMP.shape
        spans.append(np.ptp(found[..., 0]) * np.ptp(found[..., 1]) / (np.ptp(whole[..., 0]) * np.ptp(whole[..., 1])))
    assert min(spans) < 0.4
    assert np.median(spans) < 0.8


@pytest.mark.parametrize("number", range(len(_OPERATIONS)))
def test_operations_keep_the_size_and_are_stronger_with_a_larger_magnitude(number: int) -> None:
    image = Image.fromarray(draw().integers(20, 200, (12, 16, 3), np.uint8)).resize((32, 32))
    weak, strong = (_OPERATIONS[number](image, strength, 1) for strength in (0.1, 1.0))
    assert weak.size == strong.size == image.size
    assert weak.mode == strong.mode == "RGB"

    def change(one: Image.Image) -> float:
        return float(np.abs(np.asarray(one).astype(int) - np.asarray(image)).mean())

    if number == 0:
        assert change(strong) == 0
    elif number in (1, 2):  # these have no strength
        assert change(strong) == change(weak) > 0
    else:
        assert change(strong) > change(weak)


def test_augmentation_follows_its_magnitude_and_seed() -> None:
    image = draw().integers(20, 200, (16, 16, 3), np.uint8)
    for seed in range(5):
        np.testing.assert_array_equal(rand_augmented(image, 9, draw(seed)), rand_augmented(image, 9, draw(seed)))
    changes = [
        np.mean([np.abs(rand_augmented(image, magnitude, draw(seed)).astype(int) - image).mean() for seed in range(60)])
        for magnitude in (1, 10)
    ]
    assert changes[0] < changes[1]


def test_cutting_twice_is_refused_and_no_views_vary_nothing() -> None:
    with pytest.raises(ValueError, match="two ways to cut"):
        Views(crop=2, area=0.5)
    assert not Views().vary
    assert all(Views(**{name: value}).vary for name, value in {"crop": 1, "area": 0.9, "flip": True, "mixup": 0.2}.items())
