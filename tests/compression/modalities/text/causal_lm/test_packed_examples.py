"""A split of texts goes where rows go: through training, validation, calibration and a teacher's store."""

import math
import random
from pathlib import Path
from string import ascii_letters
from typing import Any

import pytest
import torch

from bench.language.windows import document_losses
from compression.distillation import teacher
from compression.distillation.states_teacher import StatesTeacher
from compression.distillation.teacher import FeatureRequest, Teacher
from compression.engine.stages import quantize
from compression.evaluation.validate import Validation, validate
from compression.modalities.base import label_loss
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm import hidden_states
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.modalities.text.scoring.perplexity import LanguageScorer, figures, score_window, summed
from compression.quantization import calibration, fake_quantize
from compression.schema.recipe.recipe import Evaluate
from compression.training.gradient_checkpointing import recomputed
from tests.support.tiny_language import FAMILIES, TEXTS, VOCABULARY, model, tokenizer

TASK = task_of("causal-lm")
MANY = [f"{text} {number}" for number in range(6) for text in TEXTS]


def rows(texts: list[str] = MANY, length: int = 24) -> PackedDataset:
    return PackedDataset.of(texts, tokenizer(bos=True), length, TASK)


def test_texts_are_counted_and_rows_of_them_are_rows_still() -> None:
    found = rows([*MANY, ""])
    assert (found.left_out, found.whole) == (1, found.asked)
    assert found.bytes == sum(len(text.encode()) for text in MANY)
    some = found.at([3, 1])
    assert [list(one) for one in some.tokens] == [list(found.tokens[3]), list(found.tokens[1])]
    assert some.batch([0]).ids.tolist() == found.batch([3]).ids.tolist()
    assert (some.whole, some.asked) == (found.whole, found.packed.asked[3] + found.packed.asked[1])
    for batch in found.by_length(4):
        for row, ids, mask in zip(batch.rows.tolist(), batch.ids, batch.mask.bool(), strict=True):
            assert ids[mask].tolist() == list(found.tokens[row])


def test_a_large_validation_is_judged_by_a_draw_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows()
    assert found.judged(0) is found
    monkeypatch.setattr("compression.modalities.text.causal_lm.packed_examples.JUDGED", found.asked // 3)
    some = found.judged(0)
    assert found.asked // 3 <= some.asked < found.asked // 2
    assert some.whole == found.asked
    assert [list(one) for one in some.tokens] == [list(one) for one in found.judged(0).tokens]


@pytest.mark.parametrize("family", FAMILIES)
def test_validation_is_the_loss_of_all_tokens_and_less_of_it_is_better(family: str) -> None:
    network, found = model(family), rows()
    now = validate(network, found)
    with torch.no_grad():
        losses = [(TASK.loss(network(**batch.inputs).logits, batch) * batch.weight).item() for batch in found.by_length(4)]
    assert -now.negative_loss == pytest.approx(sum(losses) / found.asked, rel=1e-4)
    assert now.value == pytest.approx(math.exp(-now.negative_loss))
    assert str(now) == f"{now.value:.4f}"
    better = now.negative_loss + 0.1
    assert Validation(now.score, now.negative_loss) < Validation(math.exp(better), better, True)
    whole = found.batch(list(range(len(found))))
    learned = label_loss(TASK, network)(whole)
    torch.testing.assert_close(learned, TASK.loss(network(**whole.inputs).logits, whole), rtol=1e-4, atol=1e-5)


def test_whoever_listens_hears_the_head_too_and_no_padding() -> None:
    network, found = model(), rows()
    heard: dict[str, int] = {}
    layers = fake_quantize.ranged_inputs(network, "static-int8")
    calibration.collect_inputs(network, layers, found, lambda name, x: heard.__setitem__(name, heard.get(name, 0) + len(x)))
    assert set(heard) == set(layers)
    assert "lm_head" in heard
    assert set(heard.values()) == {sum(map(len, found.tokens))}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_teachers_last_states_say_all_that_it_would_say(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, found = model(family), rows()
    look = FeatureRequest(states=(0, 1))
    kept = StatesTeacher(network, found, look).asked()
    asked = StatesTeacher(network, found, look, cache_file=(tmp_path / "states", 1e9)).asked()
    monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    again = StatesTeacher(network, found, look).asked()
    assert (kept.keeps, again.keeps) == (True, False)
    for batch in found.shuffled(3, 1):
        said = kept.outputs(batch)
        assert len(said.hidden) == 2
        with torch.no_grad():
            head = hidden_states.output_layer(network)
            direct = network(**batch.inputs).logits[batch.asked]
            torch.testing.assert_close(head(said.logits), direct, rtol=1e-2, atol=2e-2)
            torch.testing.assert_close(head(again.outputs(batch).logits), direct, rtol=1e-4, atol=1e-5)
        assert torch.equal(said.logits, asked.outputs(batch).logits)
        half = batch.split(2)[0]
        assert torch.equal(kept.outputs(half).logits, said.logits[: half.weight])
    plain = Teacher(network, found, look, logits=torch.zeros(len(found), 0)).asked()
    assert plain.outputs(batch).hidden.shape == said.hidden.shape


def test_sensitivities_are_those_of_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    network, found = model(tie_word_embeddings=False), rows()
    names = [name for name, _ in fake_quantize.quantizable(network)]
    depths = {name: 0 if "embed" in name else 3 if "lm_head" in name else 1 + int(name.split(".")[2]) for name in names}

    def only(one: Any, chosen: set[int], scheme: Any) -> None:
        fake_quantize.remove_fake_quantization(one)
        fake_quantize.insert_fake_quantization(one, lambda name: depths[name] in chosen, scheme)

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([network(**batch.inputs).logits[batch.asked] for batch in found.by_length(4)])

    monkeypatch.setattr(quantize, "depths", lambda _: [0, 1, 2, 3])
    monkeypatch.setattr(quantize, "only", only)
    plain, wanted = logits(), {}
    for depth in range(4):
        only(network, {depth}, fake_quantize.DYNAMIC)
        wanted[depth] = ((logits() - plain).square().sum() / plain.square().sum()).item()
    assert quantize.sensitivities(network, found, fake_quantize.DYNAMIC) == pytest.approx(wanted, rel=1e-3)
    assert len({f"{change:.3g}" for change in wanted.values()}) == 4
    assert not fake_quantize.is_simulated(network)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_computed_again_keep_nothing_and_give_the_same_gradients(family: str) -> None:
    network, found = model(family), rows()
    batch = found.batch([0, 1, 2])
    calls = []
    layer = next(module for name, module in network.named_modules() if name.endswith((".layers.0.mlp", ".h.0.mlp")))
    layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients(*, wanted: bool) -> tuple[list[torch.Tensor], int]:
        calls.clear()
        saved = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with recomputed(network, wanted=wanted), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = label_loss(TASK, network)(batch)
        return list(torch.autograd.grad(loss, list(network.parameters()))), saved

    plain, kept = gradients(wanted=False)
    assert len(calls) == 1
    with recomputed(network, wanted=True):
        loss = label_loss(TASK, network)(batch)
        again = torch.autograd.grad(loss, list(network.parameters()))
    assert len(calls) == 3  # one of them before
    for one, other in zip(again, plain, strict=True):
        torch.testing.assert_close(one, other)
    _, less = gradients(wanted=True)
    assert less < kept / 2
    assert "forward" not in vars(layer)


def test_windows_of_an_artifacts_scorer_are_those_of_the_engine() -> None:
    network, reader = model(), tokenizer(bos=True, eos=True)
    windows = LanguageScorer(16, 8).windows(reader.backend_tokenizer, [{"text": text} for text in ["", *TEXTS]])
    assert all(len(one.ids) <= 16 for one in windows)
    with torch.no_grad():
        scores = [score_window(one, network(torch.tensor([one.ids])).logits[0].numpy()) for one in windows]
    found = summed(windows, scores)
    expected = document_losses(network, read(TEXTS, reader), length=16, stride=8)
    assert (found.tokens.tolist(), found.bytes.tolist()) == (expected.tokens.tolist(), expected.bytes.tolist())
    assert found.right.tolist() == expected.right.tolist()
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert figures(found).perplexity.value < VOCABULARY * 50


def test_chance_is_of_who_knows_how_often_each_token_comes() -> None:
    task = task_of("causal-lm", evaluate=Evaluate(window=32))
    same = PackedDataset.of(["a" * 20, "a" * 9], tokenizer(), 16, task)
    assert task.chance(same) == pytest.approx(1.0)
    assert 10 < task.chance(rows()) < VOCABULARY
    assert task.score(torch.zeros(len(same), 16, VOCABULARY), same) == pytest.approx(VOCABULARY, rel=1e-4)
    assert validate(model(), same).inverse


@pytest.mark.parametrize("length", [4, 24, 60])
def test_as_many_tokens_are_kept_for_any_length_of_rows_and_from_all_over(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.modalities.text.causal_lm.packed_examples.TOGETHER", 60)
    draw = random.Random(0)
    texts = ["".join(draw.choices(ascii_letters, k=draw.randint(2, 40))) for _ in range(100)]
    taught, given, heard = model(), rows(texts, length), list[torch.Tensor]()
    name = "model.layers.1.self_attn.q_proj"
    layer = {name: taught.get_submodule(name)}
    calibration.collect_inputs(taught, layer, given, lambda _, x: heard.append(x))
    assert len(heard) > 10
    kept = calibration.sample_tokens(taught, layer, given, 100)[name]
    assert len(kept) == 100
    places = (kept[:, None] == torch.cat(heard)).all(dim=-1).float().argmax(dim=1)  # whichever comes first of equals
    assert torch.histc(places.float(), 4, 0, sum(map(len, heard))).min() > 5
    every = calibration.sample_tokens(taught, layer, given, 10**6)[name]
    assert sorted(every.sum(dim=1).tolist()) == sorted(torch.cat(heard).sum(dim=1).tolist())
