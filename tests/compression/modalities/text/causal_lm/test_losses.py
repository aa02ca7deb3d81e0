"""Losses over a vocabulary, chunk by chunk: the plain formula's values and gradients, without its tensors."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.text.causal_lm import chunked_head, hidden_states
from compression.modalities.text.causal_lm.losses import FullTargets, TopKTargets, next_token_loss, next_token_terms
from compression.modalities.text.causal_lm.packing import Packed
from compression.quantization.dynamic_int8 import FakeQuantLinear
from compression.quantization.precision import gradient_dtype, gradient_precision
from tests.support.tiny_language import Largest, documents, model, parameters

ASKED, VOCABULARY, NARROW, WIDE, TEMPERATURE = 13, 29, 6, 10, 3.0
Grads = list[Tensor]


class Places:
    """What a student and a teacher are at some places, in float64."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.states = torch.randn(ASKED, NARROW, dtype=torch.float64, requires_grad=True)
        self.head = nn.Linear(NARROW, VOCABULARY, dtype=torch.float64)
        self.teacher = nn.Linear(WIDE, VOCABULARY, dtype=torch.float64)
        self.theirs = torch.randn(ASKED, WIDE, dtype=torch.float64)
        self.following = torch.randint(VOCABULARY, (ASKED,))

    @property
    def whole(self) -> FullTargets:
        return FullTargets((self.theirs,), (self.teacher,), TEMPERATURE)

    def kept(self, kept: int) -> TopKTargets:
        return TopKTargets(*losses.top_k_targets(self.teacher(self.theirs).detach(), TEMPERATURE, kept), TEMPERATURE)

    def plain(self) -> tuple[Tensor, Tensor]:
        """The formulas, all tokens and the whole vocabulary at once."""
        logits, wanted = self.head(self.states), self.teacher(self.theirs).detach()
        p = (wanted / TEMPERATURE).softmax(dim=-1)
        apart = (p * (p.log() - (logits / TEMPERATURE).log_softmax(dim=-1))).sum(dim=-1)
        return apart.mean() * TEMPERATURE**2, functional.cross_entropy(logits, self.following)

    def gradients(self, value: Tensor) -> Grads:
        return list(torch.autograd.grad(value, [self.states, *self.head.parameters()]))


@pytest.mark.parametrize("size", [1, 4, 13, 100])
def test_values_and_gradients_are_those_of_the_plain_formulas(size: int) -> None:
    at = Places()
    found = next_token_terms(at.states, at.head, at.following, at.whole, size=size)
    soft, hard = at.plain()
    torch.testing.assert_close(found["soft"], soft)
    torch.testing.assert_close(found["hard"], hard)
    # Two weights that hang on what follows: nothing of the gradient may be settled in the forward pass.
    mixed = found["soft"] * found["hard"].detach() + 0.3 * found["hard"] ** 2
    plain = soft * hard.detach() + 0.3 * hard**2
    for one, other in zip(at.gradients(mixed), at.gradients(plain), strict=True):
        torch.testing.assert_close(one, other)
    assert at.teacher.weight.grad is None


def test_gradients_agree_with_finite_differences() -> None:
    at = Places()

    def both(states: Tensor) -> tuple[Tensor, ...]:
        whole, some = (next_token_terms(states, at.head, at.following, wanted, size=4) for wanted in (at.whole, at.kept(5)))
        return whole["soft"], whole["hard"], some["soft"]

    assert torch.autograd.gradcheck(both, (at.states,))


def test_of_what_is_kept_the_loss_grows_to_the_whole_one_and_is_never_more() -> None:
    at = Places()
    whole = next_token_terms(at.states, at.head, at.following, at.whole, ("soft",), size=5)["soft"]
    wanted = [at.kept(kept) for kept in (1, 4, 12, VOCABULARY - 1)]
    some = [next_token_terms(at.states, at.head, at.following, each, ("soft",), size=5)["soft"] for each in wanted]
    values = [one.item() for one in some]
    assert values == sorted(values)
    assert values[0] < values[-1] - 0.05
    assert values[-1] == pytest.approx(whole.item(), rel=2e-3)  # 16 bits
    for one, other in zip(at.gradients(some[-1]), at.gradients(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)


def test_whoever_says_what_the_teacher_says_costs_nothing_and_without_a_teacher_there_is_no_soft_term() -> None:
    at = Places()
    for wanted in (at.whole, at.kept(3)):
        same = next_token_terms(at.theirs.clone().requires_grad_(), at.teacher, at.following, wanted, ("soft",), size=4)["soft"]
        assert same.item() == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="no teacher"):
        next_token_terms(at.states, at.head, at.following, None, size=4)


def test_a_teacher_that_is_sure_leaves_no_infinity() -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 3] = 1e4
    known, ids = losses.top_k_targets(logits, 1.0, 4)
    student = torch.randn(2, VOCABULARY, requires_grad=True)
    found = losses.top_k_target_loss(student, known, ids, 1.0)
    found.backward()
    assert found.item() == pytest.approx(functional.cross_entropy(student, torch.tensor([3, 3])).item(), rel=1e-3)
    assert student.grad.isfinite().all()


def test_the_likeliest_tokens_stand_for_all_of_them_to_a_tolerance() -> None:
    """Of 20,000 tokens whose probabilities fall as words' do, 64 and the sum of the rest (up to a quarter) keep three quarters
    of the divergence of a student that is near its teacher, and its gradient's direction.
    """
    draw = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, 20_001).log()
    teacher = torch.stack([-1.3 * ranks[torch.randperm(len(ranks), generator=draw)] for _ in range(8)])
    student = (teacher + 0.5 * torch.randn(teacher.shape, generator=draw)).requires_grad_()
    known, ids = losses.top_k_targets(teacher, 1.0, 64)
    assert known[:, -1].exp().max() < 0.25  # what the rest has
    whole, part = losses.soft_target_loss(student, teacher, 1.0), losses.top_k_target_loss(student, known, ids, 1.0)
    assert 0.75 * whole < part < whole
    of_whole, of_part = (torch.autograd.grad(each, student, retain_graph=True)[0].flatten() for each in (whole, part))
    assert functional.cosine_similarity(of_whole, of_part, dim=0) > 0.95


@pytest.mark.parametrize("kind", [nn.Linear, FakeQuantLinear])
def test_a_head_of_integers_learns_as_it_does_of_all_tokens_at_once(kind: type[nn.Linear]) -> None:
    torch.manual_seed(0)
    head, states = kind(NARROW, VOCABULARY), torch.randn(ASKED, NARROW, requires_grad=True)
    following = torch.randint(VOCABULARY, (ASKED,))
    with gradient_precision("float32"):
        few = torch.autograd.grad(next_token_loss(states, head, following, size=3), [states, *head.parameters()])
        whole = torch.autograd.grad(functional.cross_entropy(head(states), following), [states, *head.parameters()])
    for one, other in zip(few, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_models_of_16_bits_are_held_against_each_other_in_32() -> None:
    at = Places()
    states, theirs = at.states.detach().bfloat16().requires_grad_(), at.theirs.bfloat16()
    head, teacher = at.head.bfloat16(), at.teacher.bfloat16()
    found = next_token_terms(states, head, at.following, FullTargets((theirs,), (teacher,), TEMPERATURE), size=4)
    plain = losses.soft_target_loss(head(states).float(), teacher(theirs).float(), TEMPERATURE)
    assert found["soft"].dtype == found["hard"].dtype == torch.float32
    torch.testing.assert_close(found["soft"], plain)
    few, whole = (torch.autograd.grad(one, [states, head.weight]) for one in (found["soft"], plain))
    for one, other in zip(few, whole, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=5e-2, atol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_learns_as_from_its_own_logits_and_padding_never_counts(tied: bool) -> None:
    network, batch = model(tie_word_embeddings=tied), Packed(documents(), 40).batch([0, 1, 2])
    assert not batch.asked.all()
    states, head = hidden_states.scored_states(network, batch), hidden_states.output_layer(network)
    chunked = next_token_loss(states, head, batch.wanted, size=7)
    logits = network(**batch.inputs).logits
    plain = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(chunked, plain)
    few, whole = (torch.autograd.grad(loss, parameters(network)) for loss in (chunked, plain))
    for one, other in zip(few, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_where_nothing_is_asked_for_nothing_is_lost() -> None:
    network, batch = model(), Packed(documents(), 40).batch([0])
    silent = replace(batch, labels=torch.full_like(batch.labels, -100))
    states, head = hidden_states.scored_states(network, silent), hidden_states.output_layer(network)
    found = next_token_terms(states, head, silent.wanted, FullTargets((states,), (head,), 3.0), size=8)
    assert found["soft"].item() == found["hard"].item() == 0
    (found["soft"] + found["hard"]).backward()
    assert network.model.norm.weight.grad.abs().max() == 0


def big() -> tuple[Tensor, nn.Linear, Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    states, theirs = torch.randn(96, 8, requires_grad=True), torch.randn(96, 8)
    return states, nn.Linear(8, 2003), theirs, nn.Linear(8, 2003), torch.randint(2003, (96,))


@pytest.mark.parametrize("kept", [None, 16])
def test_no_tensor_of_all_tokens_by_the_vocabulary_is_there_forward_or_backward(kept: int | None) -> None:
    states, head, theirs, teacher, following = big()
    wanted: Any = FullTargets((theirs,), (teacher,), 2.0)
    if kept is not None:
        wanted = TopKTargets(*losses.top_k_targets(teacher(theirs).detach(), 2.0, kept), 2.0)
    with Largest() as seen:
        found = next_token_terms(states, head, following, wanted, size=8)
        (found["soft"] + found["hard"]).backward()
    assert seen.elements == 8 * 2003
    with Largest() as plain:
        losses.soft_target_loss(head(states), teacher(theirs), 2.0).backward()
    assert plain.elements == 96 * 2003


def test_the_graph_keeps_no_logits_until_the_backward_pass() -> None:
    states, head, theirs, teacher, following = big()
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    def most(loss: Callable[[], Tensor]) -> int:
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss()
        return max(sizes, default=0)

    assert most(lambda: losses.soft_target_loss(head(states), teacher(theirs).detach(), 2.0)) == 96 * 2003
    assert (
        most(lambda: next_token_terms(states, head, following, FullTargets((theirs,), (teacher,), 2.0), size=8)["soft"])
        < 8 * 2003
    )


def test_what_is_computed_again_on_a_devices_own_thread_keeps_the_precision_asked_for() -> None:
    seen: list[tuple[str, torch.dtype]] = []

    def head(states: Tensor) -> Tensor:
        seen.append((threading.current_thread().name, gradient_dtype(torch.device("cpu"))))
        return states

    states = torch.randn(2, 5, requires_grad=True)
    with gradient_precision("float32"):
        found = next_token_loss(states, head, torch.tensor([1, 2]), size=2)
        thread = threading.Thread(target=found.backward, name="device")
        thread.start()
        thread.join()
    assert states.grad is not None
    assert [name for name, _ in seen] == ["MainThread", "device"]
    assert {dtype for _, dtype in seen} == {torch.float32}


def test_a_chunk_is_as_many_tokens_as_its_bytes_hold() -> None:
    assert chunked_head.chunk_size(49_152) == 341
    assert chunked_head.chunk_size(10**9) == 1
    assert chunked_head.widen(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert chunked_head.widen(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
