"""Error tables of whole models: the errors are what layers really lose, and a cut keeps the weights that they assume."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.models.linear_layers import input_columns, whole_matrix
from compression.pruning.error_tables import compensated, compute_tables, readers_of, tables_digest
from compression.pruning.integer_errors import integer_errors
from compression.pruning.layer_inputs import real_positions
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, remove_fake_quantization
from compression.schema.error_tables import ErrorTables
from tests.support import decoder_models
from tests.support.encoder_models import tiny
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.tiny_bert import encoded, sentences, tiny_config
from tests.support.tiny_maps import MapBatch


def encoder() -> tuple[PreTrainedModel, list[Any]]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config()).eval()
    return model, list(encoded(sentences(80, 3)).by_length(32))


def decoder() -> tuple[PreTrainedModel, list[Any]]:
    """Its matrices are (inputs, outputs)."""
    model = decoder_models.tiny("gpt2", "ForSequenceClassification", pad_token_id=0)
    return model, list(encoded(sentences(80, 3)).by_length(32))


def network() -> tuple[PreTrainedModel, list[Any]]:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(48, 3, 8, 8, generator=draw)
    labels = torch.zeros(24, dtype=torch.long)
    return drawn_network(resnet((2, 2), 8)), [MapBatch(part, labels, torch.arange(24)) for part in pixels.split(24)]


def tables_of(model: PreTrainedModel, batches: list[Any]) -> tuple[ErrorTables, dict[str, Tensor]]:
    ticks = compute_tables(model, lambda: batches, tables_digest(model, lambda: batches))
    while True:
        try:
            next(ticks)
        except StopIteration as ended:
            return ended.value


def outputs_of(model: PreTrainedModel, name: str, batches: list[Any]) -> Tensor:
    """What a layer says of the inputs that the whole model gives it; `inputs` are recorded once."""
    layer, found = model.get_submodule(name), []

    def see(_: Any, given: tuple[Tensor, ...]) -> None:
        found.append(given[0].detach())

    with layer.register_forward_pre_hook(see), torch.no_grad():
        for batch in batches:
            model(**batch.inputs)
    return torch.cat([real_positions(input_columns(layer, one), batch.mask) for one, batch in zip(found, batches, strict=True)])


@pytest.mark.parametrize("made", [encoder, decoder, network])
def test_errors_are_what_the_layers_lose_and_cuts_keep_the_updated_weights(made: Any) -> None:
    model, batches = made()
    tables, orders = tables_of(model, batches)
    assert {group.key for group in tables.groups} == set(orders)
    assert tables.rows == sum(len(batch.rows) for batch in batches)
    for group in tables.groups:
        assert group.points[-1].error <= group.readers * 1.001
        whole = {name: value.clone() for name, value in model.state_dict().items()}
        point = group.points[len(group.points) // 2]
        kept = orders[group.key][-point.units :].sort().values
        measured = 0.0
        readers = readers_of(model)[group.key]
        readers = {name: columns for name, columns in readers.items() if name != "score"}  # what no pass runs
        seen = {name: outputs_of(model, name, batches) for name in readers}
        matrices = {name: whole_matrix(model.get_submodule(name)).clone() for name in readers}
        with compensated(model, PruningPlan({group.key: kept}), lambda: batches):
            for name, columns in readers.items():
                layer, before = model.get_submodule(name), matrices[name]
                gone = torch.ones(len(columns), dtype=torch.bool)
                gone[kept] = False
                assert not whole_matrix(layer)[:, columns[gone].flatten()].any()
                change = seen[name] @ (whole_matrix(layer) - before).t()
                if layer.bias is not None:
                    change = change + layer.bias - whole[f"{name}.bias"]
                measured += (change.square().sum() / (seen[name] @ before.t()).square().sum()).item()
        assert measured == pytest.approx(point.error, rel=1e-3, abs=1e-6)
        assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_layers_are_known_by_what_they_change_and_what_goes_with_them() -> None:
    model, batches = encoder()
    tables, _ = tables_of(model, batches)
    assert [(layer.name, set(layer.groups)) for layer in tables.layers] == [
        (str(number), {f"{axis}.{number}" for axis in ("heads", "ffn", "compared", "values")}) for number in (0, 1)
    ]
    assert sum(tables.without(layer) for layer in tables.layers) == pytest.approx(
        sum(group.points[-1].error for group in tables.groups if "." in group.key)
    )
    least = min(tables.layers, key=lambda layer: layer.change)
    assert tables.without(least) < tables.without(max(tables.layers, key=lambda layer: layer.change))


def test_blocks_of_a_network_go_with_their_inner_channels() -> None:
    model, batches = network()
    tables, _ = tables_of(model, batches)
    assert [layer.name for layer in tables.layers] == list(adapter_of(model).layer_kinds(model.config))
    assert all(len(layer.groups) == 1 and layer.groups[0].startswith("channels") for layer in tables.layers)
    assert all(layer.change > 0 for layer in tables.layers)


def test_the_digest_depends_on_weights_and_rows_alone() -> None:
    model, batches = encoder()
    again, same = encoder()
    known = tables_digest(model, lambda: batches)
    assert known == tables_digest(again, lambda: same)
    assert known != tables_digest(model, lambda: batches[:-1])
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert known != tables_digest(model, lambda: batches)


@pytest.mark.parametrize("model", [tiny("distilbert"), decoder_models.tiny("gpt2"), decoder_models.tiny("llama")])
def test_other_families_have_readers_of_each_of_their_groups(model: PreTrainedModel) -> None:
    found = readers_of(model)
    assert {key.partition(".")[0] for key in found} == {"hidden", "heads", "ffn"}
    shape = adapter_of(model).shape_of(model.config)
    assert {key: len(columns) for key, own in found.items() for columns in own.values()} == {
        key: units_at(shape, *axis_and_layer(key)) for key in found
    }


def test_errors_of_integers_are_those_of_the_scheme_that_the_model_simulates() -> None:
    model, batches = encoder()
    assert integer_errors(model, batches) == ()
    found = {}
    for scheme in ("weight-only-int8", "weight-only-int4"):
        insert_fake_quantization(model, simulation=Simulation(scheme=scheme, group_size=32 if "int4" in scheme else None))
        errors = integer_errors(model, batches)
        assert {name for one in errors for name in one.schemes} == {scheme}
        found[scheme] = {one.layer: one.schemes[scheme] for one in errors}
        remove_fake_quantization(model)
    eight, four = found["weight-only-int8"], found["weight-only-int4"]
    assert "bert.encoder.layer.0.output.dense" in eight
    assert all(0 < eight[name] < four[name] < 0.1 for name in eight)
