"""Writes DeepSeek-V2's and V3's mixtures of experts as ONNX nodes. Each expert reads only the rows that are routed to it."""

from typing import Any

import numpy as np

from compression.export.onnx.decoder_graph import Body, activation
from compression.export.onnx.softmax import softmax


def routed(body: Body, x: str, part: Any) -> str:
    """Write the routed experts of a layer, rows (b × s, channels) -> the same shape. part: the stock module, with its router in
    `gate` and fused weights in `experts`. Of the router's table, rows by experts, 0 means that the row is not routed to the
    expert.
    """
    shares = _shares(body, x, part.gate)
    name, up = body.parameter(part.experts, "gate_up_proj")
    down = body.parameter(part.experts, "down_proj")[1]
    stem, units = name.removesuffix(".gate_up_proj"), down.shape[2]
    nothing = body.constant("nothing", np.array(0, np.float32))
    total = body.node("Expand", nothing, body.node("Shape", x))
    columns = body.split(shares, (1,) * len(down), axis=1)
    body.within_expert = True
    for number, column in enumerate(columns):
        own = body.node("Reshape", column, body.numbers(-1))
        places = body.node("Reshape", body.node("NonZero", own), body.numbers(-1))
        rows = body.node("Gather", x, places)
        both = body.product(rows, f"{stem}.{number}.gate_up_proj", up[number])
        gate, value = body.split(both, (units, units), axis=1)
        inner = body.node("Mul", activation(body, gate, body.config.hidden_act), value)
        found = body.product(inner, f"{stem}.{number}.down_proj", down[number])
        share = body.node("Unsqueeze", body.node("Gather", own, places), body.numbers(-1))
        at = body.node("Unsqueeze", places, body.numbers(-1))
        total = body.node("ScatterND", total, at, body.node("Mul", found, share), reduction="add")
    body.within_expert = False
    return total


def _shares(body: Body, x: str, router: Any) -> str:
    """Write a router: rows (b × s, channels) -> each expert's weight for each row, (b × s, experts), mostly 0."""
    name, weight = body.parameter(router)
    asked = body.plain_product(x, name.removesuffix(".weight"), weight)
    corrected = hasattr(router, "e_score_correction_bias")
    if corrected:  # V3: experts do not compete, and a separately learned correction affects only the choice
        scores = body.node("Sigmoid", asked)
        bias = body.vector(router, "e_score_correction_bias")
        choice = _of_groups(body, body.node("Add", scores, bias), router, best=2, outside=-np.inf)
    else:
        scores = softmax(body, asked) if body.is_portable else body.node("Softmax", asked, axis=-1)
        limited = router.topk_method == "group_limited_greedy"
        choice = _of_groups(body, scores, router, best=1, outside=0.0) if limited else scores
    chosen = body.top(choice, router.top_k)[1]
    weights = body.node("GatherElements", scores, chosen, axis=1)
    if corrected and router.norm_topk_prob:
        whole = body.node("ReduceSum", weights, body.numbers(-1), keepdims=1)
        weights = body.node("Div", weights, body.node("Add", whole, body.number(1e-20)))
    weights = body.node("Mul", weights, body.number(float(router.routed_scaling_factor)))
    none = body.constant("nothing", np.array(0, np.float32))
    rows = body.node("Expand", none, body.node("Shape", scores))
    return body.node("ScatterElements", rows, chosen, weights, axis=1)


def _of_groups(body: Body, scores: str, router: Any, *, best: int, outside: float) -> str:
    """Set scores to `outside` except in the best groups, ranked by the sum of their `best` highest experts."""
    groups, each = router.num_group, router.num_experts // router.num_group
    apart = body.node("Reshape", scores, body.numbers(-1, groups, each))
    judged = body.node("ReduceSum", body.top(apart, best)[0], body.numbers(-1), keepdims=0)
    chosen = body.top(judged, router.topk_group)[1]
    nothing, one = (body.constant(name, np.array(value, np.float32)) for name, value in (("nothing", 0), ("one_share", 1)))
    none = body.node("Expand", nothing, body.node("Shape", judged))
    some = body.node("ScatterElements", none, chosen, body.node("Expand", one, body.node("Shape", chosen)), axis=1)
    kept = body.node("Greater", body.node("Unsqueeze", some, body.numbers(-1)), nothing)
    left = body.node("Where", kept, apart, body.constant(f"outside_{outside}", np.array(outside, np.float32)))
    return body.node("Reshape", left, body.numbers(-1, groups * each))
