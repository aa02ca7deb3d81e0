"""The baseline without Lathe: prune and distil a Llama in plain PyTorch, with Minitron's published choices.

Muralidharan et al. 2024 ("Compact Language Models via Pruning and Knowledge Distillation") and Sreenivas et al. 2024 ("LLM
Pruning and Distillation in Practice"): importance from activations on calibration rows (mean over tokens, L2 over rows),
of norms' outputs and of what goes into down_proj and o_proj; one cut; then forward KL on logits alone at τ = 1, AdamW with a
cosine from 1e-4 to 1e-5, layers computing in bfloat16 and heads in float32. Rows are documents one after the other with EOS
between them, cut at `length`.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

PEAK, LAST, WARM_UP, BETAS, DECAY = 1e-4, 1e-5, 0.05, (0.9, 0.95), 0.1


@dataclass(frozen=True)
class Widths:
    """Widths after the cut; a group is a KV head and its query heads."""

    hidden: int
    groups: int
    ffn: int


@dataclass(frozen=True)
class Importance:
    """Scores of the stream's channels (hidden,), and of each layer's groups (layers, groups) and units (layers, ffn)."""

    hidden: Tensor
    groups: Tensor
    ffn: Tensor


def rows_of(documents: list[list[int]], end: int, length: int) -> Tensor:
    """Concatenate documents of ids, each followed by `end`, and cut the result into rows. -> (rows, length)."""
    flat = [token for ids in documents for token in [*ids, end]]
    whole = len(flat) // length
    return torch.tensor(flat[: whole * length]).view(whole, length)


@torch.no_grad()
def importance(model: LlamaForCausalLM, rows: Tensor, batch: int = 4) -> Importance:
    """Score everything in one pass over calibration rows, (rows, length)."""
    config, layers = model.config, model.model.layers
    found: dict[nn.Module, Tensor] = {}

    def add(module: nn.Module, states: Tensor) -> None:
        found[module] = found.get(module, torch.zeros(())) + states.float().abs().mean(dim=1).square().sum(dim=0)

    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_hook(lambda module, _, out: add(module, out)).remove)
        for part in [part for layer in layers for part in (layer.self_attn.o_proj, layer.mlp.down_proj)]:
            hooks.callback(part.register_forward_pre_hook(lambda module, inputs: add(module, inputs[0])).remove)
        for some in torch.split(rows, batch):
            model.model(some, use_cache=False)
    groups = [found[layer.self_attn.o_proj].sqrt().view(config.num_key_value_heads, -1).sum(dim=1) for layer in layers]
    return Importance(
        hidden=torch.stack([found[norm].sqrt() for norm in norms]).sum(dim=0),
        groups=torch.stack(groups),
        ffn=torch.stack([found[layer.mlp.down_proj].sqrt() for layer in layers]),
    )


@torch.no_grad()
def cut(model: LlamaForCausalLM, scores: Importance, to: Widths) -> LlamaForCausalLM:
    """Slice the highest-scored channels, groups and units into a smaller stock model."""
    config = copy.deepcopy(model.config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = config.num_attention_heads // config.num_key_value_heads
    config.hidden_size, config.intermediate_size, config.head_dim = to.hidden, to.ffn, size
    config.num_key_value_heads, config.num_attention_heads = to.groups, to.groups * queries
    small = LlamaForCausalLM(config).eval()
    stream = _best(scores.hidden, to.hidden)
    small.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight[:, stream])
    small.lm_head.weight.copy_(model.lm_head.weight[:, stream])
    small.model.norm.weight.copy_(model.model.norm.weight[stream])
    for number, (new, old) in enumerate(zip(small.model.layers, model.model.layers, strict=True)):
        groups, units = _best(scores.groups[number], to.groups), _best(scores.ffn[number], to.ffn)
        keys, heads = _spread(groups, size), _spread(groups, size * queries)
        ours, theirs = new.self_attn, old.self_attn
        ours.q_proj.weight.copy_(theirs.q_proj.weight[heads][:, stream])
        ours.k_proj.weight.copy_(theirs.k_proj.weight[keys][:, stream])
        ours.v_proj.weight.copy_(theirs.v_proj.weight[keys][:, stream])
        ours.o_proj.weight.copy_(theirs.o_proj.weight[stream][:, heads])
        for name in ("gate_proj", "up_proj"):
            getattr(new.mlp, name).weight.copy_(getattr(old.mlp, name).weight[units][:, stream])
        new.mlp.down_proj.weight.copy_(old.mlp.down_proj.weight[stream][:, units])
        for name in ("input_layernorm", "post_attention_layernorm"):
            getattr(new, name).weight.copy_(getattr(old, name).weight[stream])
    return small


def _best(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _spread(chosen: Tensor, size: int) -> Tensor:
    return (chosen[:, None] * size + torch.arange(size)).flatten()


def distil(
    student: LlamaForCausalLM, teacher: LlamaForCausalLM, rows: Tensor, *, steps: int, batch: int, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """Train in place. rows: (rows, length), repeated as needed. Yields (step, KL in nats a token)."""
    settings: dict[str, Any] = {"lr": PEAK, "betas": BETAS, "weight_decay": DECAY, "fused": True}
    optimizer = torch.optim.AdamW(student.parameters(), **settings)
    order = _endless(len(rows), batch, seed)
    student.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        some = rows[next(order)]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = teacher.model(some, use_cache=False).last_hidden_state
            given = student.model(some, use_cache=False).last_hidden_state
        # Logits in bfloat16 would be apart by steps of an eighth where they are 16 and more.
        with torch.no_grad():
            answer = teacher.lm_head(wanted.float())
        one, other = (logits.flatten(0, 1).log_softmax(dim=-1) for logits in (student.lm_head(given.float()), answer))
        loss = functional.kl_div(one, other, reduction="batchmean", log_target=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield step, loss.item()
    student.eval()


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to LAST."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return PEAK * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return LAST + (PEAK - LAST) * (1 + math.cos(math.pi * done)) / 2


def _endless(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < batch:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:batch]
        left = left[batch:]
