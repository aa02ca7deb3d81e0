"""A profile's sizes are those that are asked for, if the manifest allows them, and else the artifact's own."""

from typing import Any

import pytest

from compression.evaluation.profiling.refusals import Refused
from compression.evaluation.profiling.sizes import chosen_sizes
from compression.schema.manifest import Interface
from compression.schema.profile import ProfileRequest
from tests.support.profiled import LONGEST, described

IMAGE = {"name": "images", "dtype": "uint8", "axes": ("batch", "height", "width", "channels"), "shape": (None, 32, 32, 3)}
IMAGES = Interface.model_validate({"inputs": [IMAGE], "largest": {}, "tested": [{"batch": 1}, {"batch": 8}, {"batch": 1}]})
ONE_ROW = Interface.model_validate({"inputs": [{**IMAGE, "shape": (1, 32, 32, 3)}], "largest": {}, "tested": []})


def test_what_is_not_asked_for_is_the_artifacts_own() -> None:
    sizes, filled = chosen_sizes(described(), ProfileRequest())
    assert sizes == {"batch": 1, "sequence": 12}
    assert (filled.length, filled.resolution) == (12, None)
    sizes, filled = chosen_sizes(IMAGES, ProfileRequest(batch=3))
    assert sizes == {"batch": 3, "height": 32, "width": 32, "channels": 3}
    assert (filled.batch, filled.length, filled.resolution) == (3, None, 32)


def test_what_is_asked_for_is_taken() -> None:
    sizes, filled = chosen_sizes(described(), ProfileRequest(batch=5, length=LONGEST))
    assert sizes == {"batch": 5, "sequence": LONGEST}
    assert filled.length == LONGEST
    assert chosen_sizes(IMAGES, ProfileRequest(resolution=32))[0]["height"] == 32
    assert chosen_sizes(ONE_ROW, ProfileRequest())[0]["batch"] == 1


@pytest.mark.parametrize(
    ("interface", "asked", "words", "fitting"),
    [
        (described(), {"length": LONGEST + 1}, f"at most {LONGEST} in input_ids, attention_mask", {"length": LONGEST}),
        (described(), {"resolution": 32}, "no height", {}),
        (IMAGES, {"resolution": 64, "batch": 2}, "of images is fixed to 32", {"resolution": 32, "batch": 2}),
        (IMAGES, {"length": 8}, "no sequence", {}),
        (ONE_ROW, {"batch": 2}, "fixed to 1", {"batch": 1}),
    ],
)
def test_what_the_artifact_cannot_take_is_refused_with_a_remedy(
    interface: Interface, asked: dict[str, Any], words: str, fitting: dict[str, Any]
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        chosen_sizes(interface, ProfileRequest(**asked))
    assert caught.value.failure.code == "unsupported"
    assert caught.value.failure.remedy
    fits = caught.value.failure.request
    assert fits == ProfileRequest(**fitting)
    assert chosen_sizes(interface, fits)[1].batch == fits.batch
