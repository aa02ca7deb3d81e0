"""Error tables of whole models: the errors are what layers really lose, and a cut keeps the weights that they assume."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.models.linear_layers import input_columns, spread, whole_matrix
from compression.planning.counted import Counted
from compression.planning.table_work import group_bytes, kept_bytes, moments_bytes, passes
from compression.pruning import error_tables
from compression.pruning.error_tables import compensated, compute_tables, group_readers, names_of, readers_of, tables_digest
from compression.pruning.layer_inputs import KeptInputs, real_positions
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, remove_fake_quantization
from compression.schema.error_tables import ErrorTables
from compression.system.progress import run_silently
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


def tables_of(model: PreTrainedModel, inputs: KeptInputs) -> tuple[ErrorTables, dict[str, Tensor]]:
    return run_silently(compute_tables(model, inputs, tables_digest(model, inputs.batches)))


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
    inputs = KeptInputs(lambda: batches)
    tables, orders = tables_of(model, inputs)
    assert {group.key for group in tables.groups} == set(orders)
    assert tables.rows == sum(len(batch.rows) for batch in batches)
    for group in tables.groups:
        assert group.points[-1].error <= group.readers * 1.001
        whole = {name: value.clone() for name, value in model.state_dict().items()}
        point = group.points[len(group.points) // 2]
        kept = orders[group.key][-point.units :].sort().values
        measured = 0.0
        readers = readers_of(model)[group.key]
        seen = {name: outputs_of(model, name, batches) for name in readers}
        matrices = {name: whole_matrix(model.get_submodule(name)).clone() for name in readers}
        with compensated(model, PruningPlan({group.key: kept}), inputs):
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
    tables, _ = tables_of(model, KeptInputs(lambda: batches))
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
    tables, _ = tables_of(model, KeptInputs(lambda: batches))
    assert [layer.name for layer in tables.layers] == list(adapter_of(model).layer_kinds(model.config))
    assert all(len(layer.groups) == 1 and layer.groups[0].startswith("channels") for layer in tables.layers)
    assert all(layer.change > 0 for layer in tables.layers)


def test_the_digest_depends_on_config_weights_and_rows_alone() -> None:
    model, batches = encoder()
    again, same = encoder()
    known = tables_digest(model, lambda: batches)
    assert known == tables_digest(again, lambda: same)
    assert known != tables_digest(model, lambda: batches[:-1])
    again.config.layer_norm_eps *= 2
    assert known != tables_digest(again, lambda: same)
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
    assert tables_of(model, KeptInputs(lambda: batches))[0].integers == ()
    found = {}
    for scheme in ("weight-only-int8", "weight-only-int4"):
        insert_fake_quantization(model, simulation=Simulation(scheme=scheme, group_size=32 if "int4" in scheme else None))
        errors = tables_of(model, KeptInputs(lambda: batches))[0].integers
        assert {name for one in errors for name in one.schemes} == {scheme, "weight-only-int8"}
        found[scheme] = {one.layer: one.schemes[scheme] for one in errors}
        finer = {one.layer: one.schemes["weight-only-int8"] for one in errors}
        assert finer == pytest.approx(found["weight-only-int8"], rel=0.5), "what the layers read differs a little"
        remove_fake_quantization(model)
    eight, four = found["weight-only-int8"], found["weight-only-int4"]
    assert "bert.encoder.layer.0.output.dense" in eight
    assert all(0 < eight[name] < four[name] < 0.1 for name in eight)


def counted(model: PreTrainedModel) -> Counted:
    family, shape = adapter_of(model), adapter_of(model).shape_of(model.config)
    out, tables = family.head(model).out, [each for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    tied = any(out.weight is table.weight for table in tables)
    return Counted(shape, family.parameters_of(model), tied=tied, network=family.network(model.config))


def experts() -> tuple[PreTrainedModel, list[Any]]:
    """Queries and keys are squeezed, so layers that read the same do not follow each other."""
    return decoder_models.tiny("deepseek_v3"), list(encoded(sentences(40, 3)).by_length(16))


def language(tied: bool) -> tuple[PreTrainedModel, list[Any]]:
    model = decoder_models.tiny("llama", "ForCausalLM", tie_word_embeddings=tied)
    return model, list(encoded(sentences(40, 3)).by_length(16))


@pytest.mark.parametrize(
    "made", [encoder, decoder, network, experts, lambda: language(tied=True), lambda: language(tied=False)]
)
def test_a_forecast_counts_the_passes_and_the_bytes_of_the_engine(made: Any, tmp_path: Any) -> None:
    model, batches = made()
    whole, forecast = KeptInputs(lambda: batches), counted(model)
    names = names_of(readers_of(model))
    run_silently(whole.collect(model, names))
    assert whole.passes == 1
    assert whole.bytes == kept_bytes(forecast)
    small = kept_bytes(forecast) // 3
    parts = KeptInputs(lambda: batches, tmp_path, small)
    run_silently(parts.collect(model, names))
    assert parts.passes == passes(forecast, small) > 2
    assert parts.bytes == 0
    for name in names:
        one, other = whole.of(name), parts.of(name)
        assert torch.equal(one.second, other.second)
        assert torch.equal(one.mean, other.mean)
    most = group_bytes(forecast)
    for key, own in readers_of(model).items():
        held = sum(reader.bytes for reader in run_silently(group_readers(model, whole, own)))
        assert 0.4 * most[key] < held <= most[key]


def test_layers_that_are_put_off_until_a_later_pass_have_the_same_tables(tmp_path: Any) -> None:
    model, batches = encoder()
    whole, orders = tables_of(model, KeptInputs(lambda: batches))
    parts, others = tables_of(model, KeptInputs(lambda: batches, tmp_path, moments_bytes(40)))
    assert parts.groups == whole.groups
    assert parts.layers == whole.layers
    assert all(torch.equal(order, others[key]) for key, order in orders.items())


def test_units_go_in_float32_where_memory_is_short_with_nearly_the_same_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = encoder()
    exact, _ = tables_of(model, KeptInputs(lambda: batches))
    monkeypatch.setattr(error_tables, "removal_itemsize", lambda _: 4)
    short, _ = tables_of(model, KeptInputs(lambda: batches))
    for one, other in zip(exact.groups, short.groups, strict=True):
        assert [point.error for point in other.points] == pytest.approx(
            [point.error for point in one.points], rel=0.02, abs=1e-4
        )


def test_an_output_layer_of_its_own_loses_and_is_updated_too() -> None:
    model, batches = language(tied=False)
    assert "lm_head" in readers_of(model)["hidden"]
    assert "lm_head" not in readers_of(language(tied=True)[0])["hidden"]
    inputs = KeptInputs(lambda: batches)
    tables, orders = tables_of(model, inputs)
    assert tables.by_key["hidden"].readers == len(readers_of(model)["hidden"])
    states = torch.cat([model.base_model(**batch.inputs)[0][batch.mask.bool()] for batch in batches]).detach()
    assert torch.allclose(inputs.of("lm_head").second, states.t() @ states / len(states), rtol=1e-3, atol=1e-5)
    before = model.lm_head.weight.clone()
    kept = orders["hidden"][8:].sort().values
    with compensated(model, PruningPlan({"hidden": kept}), inputs), torch.no_grad():
        assert not torch.equal(model.lm_head.weight[:, kept], before[:, kept])
        cut = before.clone()
        cut[:, orders["hidden"][:8]] = 0
        lost = [(states @ (one - before).t()).square().sum() for one in (model.lm_head.weight, cut)]
        assert lost[0] < lost[1]


def test_a_pause_reaches_the_tables_within_a_group() -> None:
    model, batches = encoder()
    inputs = KeptInputs(lambda: batches)
    ticks = sum(1 for _ in compute_tables(model, inputs, "0" * 64))
    assert ticks > len(batches) + 8 * len(readers_of(model))


@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2, "padding": 2}, {"dilation": 2}])
def test_places_of_a_large_map_lie_on_a_grid_over_all_of_it(settings: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer, given = torch.nn.Conv2d(3, 5, (3, 2), **settings), torch.randn(2, 3, 17, 14)
    made = layer(given) - layer.bias[:, None, None]
    every = input_columns(layer, given) @ whole_matrix(layer).t()
    assert torch.allclose(every.transpose(1, 2), made.flatten(2), atol=1e-5)
    few = input_columns(layer, given, 16) @ whole_matrix(layer).t()
    rows, columns = (spread(size, 16) for size in made.shape[2:])
    assert len(rows) == len(columns) == 4
    assert torch.allclose(few.transpose(1, 2), made[:, :, rows][:, :, :, columns].flatten(2), atol=1e-5)
