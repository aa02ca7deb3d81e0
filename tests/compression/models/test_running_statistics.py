"""Which buffers a training saves, and when running statistics follow it."""

import pytest
import torch
from torch import nn

from compression.models.running_statistics import saved_buffers, set_training_mode


class Model(nn.Module):
    """A normalisation, dropout, and a buffer that a checkpoint does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.register_buffer("table", torch.zeros(2), persistent=False)


class Tied(nn.Module):
    ties_in_training = True


def test_what_only_training_ties_is_in_training_mode_without_dropout() -> None:
    model = nn.Sequential(Tied(), nn.Dropout(0.5)).eval()
    set_training_mode(model, dropout=False)
    assert (model[0].training, model[1].training) == (True, False)


def test_the_buffers_of_a_checkpoint_are_saved() -> None:
    model = Model()
    assert [id(one) for one in saved_buffers(model)] == [id(one) for one in model.norm.buffers()]
    assert saved_buffers(nn.Linear(2, 2)) == []


@pytest.mark.parametrize("dropout", [False, True])
def test_statistics_follow_training_with_and_without_dropout(dropout: bool) -> None:
    model = Model().eval()
    model.norm.requires_grad_(requires_grad=False)
    set_training_mode(model, dropout=dropout)
    assert (model.norm.training, model.drop.training) == (True, dropout)
    model.norm(torch.full((4, 3), 5.0))
    assert model.norm.running_mean.tolist() == pytest.approx([0.5] * 3)
    still = nn.BatchNorm1d(3, track_running_stats=False)
    set_training_mode(still, dropout=False)
    assert not still.training
