"""Networks in torch with drawn weights and statistics."""

import torch

from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.networks.graph import Graph
from compression.models.networks.value_shapes import value_shapes


@torch.no_grad()
def drawn_network(graph: Graph, seed: int = 0) -> NetworkForImageClassification:
    """Build a network whose norms, statistics and constants are none of the usual numbers."""
    torch.manual_seed(seed)
    outputs = value_shapes(graph)[graph.output][-1]
    model = NetworkForImageClassification(NetworkConfig(graph=graph.model_dump(mode="json"), num_labels=outputs)).eval()
    for name, value in model.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.randn_like(value) * 0.3 if name.endswith(("bias", "mean")) else torch.rand_like(value) + 0.5)
        elif name.endswith("value"):
            value.copy_(torch.randn_like(value))
    return model
