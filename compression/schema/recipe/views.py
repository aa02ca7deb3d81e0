"""How training rows are varied each time that they are shown: the recipe's `train.views`."""

from typing import Annotated

from pydantic import Field, model_validator

from compression.schema.config import Config

Share = Annotated[float, Field(gt=0, le=1)]


class Views(Config):
    """Show images differently in each epoch of training; validation and test see them as they are.

    The same seed gives the same views. A teacher is asked about the very images that the model sees.
    """

    crop: Annotated[int, Field(ge=0, le=128)] = 0
    """Pixels: each side gets so many black ones, and a part of the image's size is cut out at a random place (He et al. 2016,
    4 for 32 × 32). 0: none."""
    area: Share = 1.0
    """Least share of the image that is cut out at random and enlarged to its size (Szegedy et al. 2015, usual for images of 224
    × 224: 0.08 from scratch, 0.5 in fine-tuning). 1: none."""
    flip: Annotated[bool, Field(description="Mirror every other image, chosen at random.")] = False
    rand_augment: Annotated[int, Field(ge=0, le=10)] = 0
    """Magnitude of RandAugment's two random operations on each image (Cubuk et al. 2020), such as rotation and contrast. 0:
    none."""
    mixup: Annotated[float, Field(ge=0, le=2)] = 0.0
    """α of mixup (Zhang et al. 2018): images and labels are mixed in pairs, by a share drawn from Beta(α, α). 0: none."""

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> "Views":
        if self.crop and self.area < 1:
            raise ValueError("crop and area are two ways to cut out a part: choose one")
        return self

    @property
    def vary(self) -> bool:
        """Return whether a row looks different each time."""
        return self != Views()
