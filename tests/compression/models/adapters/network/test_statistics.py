"""After a cut the running statistics of a network are those of its rows again."""

import torch

from compression.models.adapters.network.statistics import reestimate_statistics
from compression.models.adapters.registry import adapter_of
from tests.support.network_graphs import resnet, vit
from tests.support.network_models import drawn_network
from tests.support.tiny_maps import maps


def test_statistics_become_the_mean_over_the_rows() -> None:
    model = drawn_network(resnet())
    rows = maps(7, 0)
    conv, norm = model.conv_0, model.batch_norm_1
    reestimate_statistics(model, (batch.inputs for batch in rows.by_length(4)))
    with torch.no_grad():
        made = conv(rows.pixels)
    assert torch.allclose(norm.running_mean, made.mean(dim=(0, 2, 3)), atol=1e-5)
    each = [made[:4].var(dim=(0, 2, 3)), made[4:].var(dim=(0, 2, 3))]
    assert torch.allclose(norm.running_var, (4 * each[0] + 3 * each[1]) / 7, atol=1e-5)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_the_adapter_knows_which_networks_have_statistics() -> None:
    with_norms, without = drawn_network(resnet()), drawn_network(vit())
    assert adapter_of(with_norms).has_statistics(with_norms)
    assert not adapter_of(without).has_statistics(without)
