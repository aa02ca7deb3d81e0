"""Where the numbers of a trace come from is found by marks; what is no view of one tensor, or is there twice, is not."""

import numpy as np
import torch
from torch import nn

from compression.models.networks.untrained import by_distance
from compression.models.networks.window_distances import distances
from compression.models.timm_form import marked, origin_of


def parts() -> nn.Module:
    """Return a module with tensors of several shapes, two of them in one list of numbers."""
    return nn.ModuleDict({"packed": nn.Linear(4, 6), "norm": nn.BatchNorm2d(3), "kernel": nn.Conv2d(2, 3, 1, bias=False)})


def test_turned_sliced_and_reshaped_tensors_are_views_of_them() -> None:
    model = parts()
    marks = marked(model)
    assert set(marks) == {name for name, value in model.state_dict().items() if value.is_floating_point()}
    weight = marks["packed.weight"]
    traced = {
        "query.weight": weight[:2].T,
        "key.weight": weight[2:].reshape(2, 2, 4).transpose(1, 0, 2),
        "kernel.weight": marks["kernel.weight"].reshape(3, 2),
        "scalar.value": np.zeros((), np.float32),
        **{name: values for name, values in marks.items() if not name.endswith("l.weight") and name != "packed.weight"},
    }
    origin = origin_of(marks, traced)
    assert origin.lost is None
    assert set(origin.views) == {*traced} - {"scalar.value"}
    state = model.state_dict()
    for name, view in origin.views.items():
        place = torch.as_strided(state[view["of"]], view["shape"], view["strides"], view["offset"])
        place.copy_(torch.from_numpy(np.ascontiguousarray(traced[name])))
    for name, values in marks.items():
        np.testing.assert_array_equal(state[name].numpy(), values)


def test_a_table_that_each_distance_of_a_window_reads_is_a_view() -> None:
    model = nn.ParameterDict({"table": torch.zeros(9, 2), "norm": torch.zeros(3)})
    marks = marked(model)
    spread = np.moveaxis(marks["table"][distances(2)], -1, 0)[None]
    origin = origin_of(marks, {"norm.weight": marks["norm"], "bias.value": spread})
    assert origin.lost is None
    view, table = origin.views["bias.value"], torch.zeros(9, 2)
    assert view["window"] == 2
    torch.as_strided(table, view["shape"], view["strides"], view["offset"]).copy_(torch.from_numpy(by_distance(spread, 2)))
    np.testing.assert_array_equal(table.numpy(), marks["table"])


def test_what_is_combined_with_other_numbers_or_twice_there_is_lost() -> None:
    marks = marked(parts())
    for name, changed in (
        ("norm.weight", marks["norm.weight"] * np.float32(1.5)),
        ("packed.bias", np.concatenate([marks["packed.bias"][:3], np.zeros(3, np.float32)])),
        ("kernel.weight", marks["kernel.weight"][:2]),
    ):
        assert origin_of(marks, {**marks, name: changed}).lost == name
    assert origin_of(marks, {**marks, "again.weight": marks["norm.bias"]}).lost == "norm.bias"
    assert origin_of(marks, {**marks, "wide.weight": np.broadcast_to(marks["norm.bias"], (2, 3))}).lost == "norm.bias"
