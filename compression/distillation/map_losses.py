"""Losses of feature maps: of what a network computes at each position of a row. Pure functions of tensors.

A map is (rows, channels, height, width). Of two maps of different sizes the larger is averaged down to the smaller.
"""

import torch
from torch import Tensor
from torch.nn import functional

from compression.distillation.losses import hidden_state_loss


def projected_map_loss(student: Tensor, teacher: Tensor, projection: Tensor) -> Tensor:
    """Return the relative squared error of a map through a learned 1 × 1 projection (FitNets, Romero et al. 2015).

    student: (rows, narrow, ...), teacher: (rows, wide, ...), projection: (narrow, wide) -> scalar: the mean squared error over
    the teacher's mean square; 1 is as bad as predicting 0.
    """
    return hidden_state_loss(*positions(student, teacher), projection[None])


def positions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the channels at each position of both maps, (1, positions, channels) each, position by position."""
    given, wanted = (each.float().movedim(1, -1).flatten(0, -2)[None] for each in _of_one_size(student, teacher))
    return given, wanted


def attention_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance of two maps' attention: where they are active (Zagoruyko & Komodakis 2017, eq. 2).

    student, teacher: (rows, channels, height, width), with any numbers of channels -> scalar from 0 to √2, mean over rows: the
    L2 distance of `attention_of`. It does not depend on the scale of either map.
    """
    given, wanted = (attention_of(each) for each in _of_one_size(student.float(), teacher.float()))
    distance: Tensor = torch.linalg.vector_norm(given - wanted, dim=1).mean()
    return distance


def attention_of(maps: Tensor) -> Tensor:
    """Return the squares summed over channels, of length 1 in each row. (rows, channels, ...) -> (rows, positions)."""
    return functional.normalize(maps.square().sum(dim=1).flatten(1), dim=1)


def _of_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    height, width = (min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True))
    smaller = height, width
    return functional.adaptive_avg_pool2d(student, smaller), functional.adaptive_avg_pool2d(teacher, smaller)
