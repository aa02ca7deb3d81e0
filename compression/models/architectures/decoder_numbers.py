"""Convert between the numbers of a decoder's config and its shape. Torch-free."""

from collections.abc import Mapping
from typing import Any

from compression.models.architectures.decoder_configs import Biases
from compression.models.architectures.decoder_tensor_names import FAMILIES, Numbers
from compression.schema.report.decoder_widths import Experts, Latent
from compression.schema.report.measurements import Shape


def numbers_of(kind: str, config: Mapping[str, Any]) -> Numbers:
    """Return the whole numbers of a config that stock code opens, by their meaning."""
    known = FAMILIES[kind]
    found: dict[str, Any] = {meaning: config.get(key, default) for meaning, (key, default, _) in known.keys.items()}
    more = known.more({**config, "model_type": kind}, found)
    return {**found, **{meaning: value for meaning, _, value in more}}


def shape_of(n: Numbers) -> Shape:
    """Return the shape that the numbers of a config describe."""
    widths = {meaning: n[meaning] for meaning in ("layers", "hidden", "heads", "ffn", "vocabulary")}
    if "experts" not in n:
        heads = n["heads"]
        return Shape(**widths, groups=n.get("groups", heads), head_size=n.get("head") or n["hidden"] // heads)
    experts = Experts(
        count=n["experts"],
        ffn=n["expert_ffn"],
        shared=n["shared"] * n["expert_ffn"],
        chosen=n["chosen"],
        groups=n["router_groups"],
        chosen_groups=n["chosen_groups"],
        dense_layers=min(n["dense"], n["layers"]),
    )
    latent = Latent(query=n["query_rank"] or None, kv=n["kv_rank"], rope=n["rope"], value=n["value"])
    return Shape(**widths, groups=n["heads"], head_size=n["nope"] + n["rope"], experts=experts, latent=latent)


def biases_in(kind: str, n: Numbers) -> Biases:
    """Return the parts of a layer whose biases the config enables; stock code of the other families ignores these keys."""
    attention = n.get("attention_bias") and kind in {"llama", "qwen3", "deepseek_v2", "deepseek_v3"}
    found: Biases = ("attention",) if attention else ()
    return (*found, "mlp") if n.get("mlp_bias") and kind in {"llama", "deepseek_v2"} else found


def keys_at(kind: str, shape: Shape) -> dict[str, int | None]:
    """Return the config keys and values that express a shape, except its layers and tokens."""
    known, experts, latent = FAMILIES[kind], shape.experts, shape.latent
    found: dict[str, int | None] = {"hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn, "groups": shape.groups}
    found["head"] = shape.head_size
    if experts is not None:
        found |= {"experts": experts.count, "expert_ffn": experts.ffn, "shared": experts.shared // experts.ffn}
        found["dense"] = experts.dense_layers
    if latent is not None:
        found |= {"kv_rank": latent.kv, "query_rank": latent.query}
    keys = {meaning: key for meaning, (key, *_) in known.keys.items()}
    keys |= {meaning: key for meaning, key, _ in known.more({"model_type": kind}, {})}
    return {keys[meaning]: value for meaning, value in found.items() if meaning in keys}
