"""Chooses the tokens of a tokenizer.json that must stay, for each algorithm.

Pure functions of the parsed file. All three algorithms have this in common: if every token of a text's split stays, the text is
split the same way, because the removed tokens could only have made other splits possible, and the algorithm preferred this one
to them.
- WordPiece takes the longest piece that fits. Only a word without a split (unknown) may get one from the shorter pieces.
- BPE merges byte pairs in a fixed order. Each merge on the way to a token must stay, and with it its two parts.
- Unigram takes the most likely split; an unknown character costs the least likely token's score and more, so that token stays.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from compression.schema.errors import UnsupportedTokenizer

Spec = Mapping[str, Any]  #: a parsed tokenizer.json
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  #: a byte in vocabularies with byte fallback
PLACEHOLDER = re.compile(r"\[?<?unused_?\d+>?\]?")
KINDS = ("WordPiece", "BPE", "Unigram")


def tokens_of(spec: Spec) -> dict[str, int]:
    """Return every token with its id. Raises UnsupportedTokenizer if its kind cannot be reduced."""
    model = spec["model"]
    kind = model.get("type")
    if kind not in KINDS:
        raise UnsupportedTokenizer(f"tokenizer.json is of the kind {kind!r:.40}", param="tokenizer.json")
    pairs = ((entry[0], number) for number, entry in enumerate(model["vocab"]))
    return dict(pairs if kind == "Unigram" else model["vocab"]) | {
        token["content"]: token["id"] for token in spec.get("added_tokens") or ()
    }


def required_tokens(spec: Spec, used: Iterable[int], count: int = 0) -> list[int]:
    """Return the ids that stay, in ascending order; if more than they may stay, the lowest ids up to `count`.

    They are the used tokens and their parts, added and special tokens, and single characters. A piece with a character that has
    no token of its own stays too, so that no text becomes unknown that was not.
    """
    tokens, model = tokens_of(spec), spec["model"]
    names = {number: token for token, number in tokens.items()}
    added = {token["id"] for token in spec.get("added_tokens") or ()}
    kept = {*used, *added, *(tokens[token] for token in _single(tokens, model))}
    if model["type"] == "Unigram":
        kept.add(min(range(len(model["vocab"])), key=lambda number: model["vocab"][number][1]))
        kept |= {model["unk_id"]} - {None}
    elif model.get("unk_token") in tokens:
        kept.add(tokens[model["unk_token"]])
    makers = _makers(model)
    kept = _with_parts(kept, names, tokens, makers)
    for number in sorted(names, key=lambda number: (bool(PLACEHOLDER.fullmatch(names[number])), number)):
        if len(kept) >= count:
            break
        if number not in kept:
            kept |= _with_parts({number}, names, tokens, makers)
    return sorted(kept)


def parts_of(spec: Spec, pieces: Iterable[str]) -> set[int]:
    """Return the ids of all tokens that could be part of a split of these pre-tokenized pieces.

    With all of them a piece is split as before, even if it is unknown and no token shows which ones the algorithm tried.
    """
    tokens, affixes = tokens_of(spec), _affixes(spec["model"])
    forms: dict[str, list[int]] = {}
    for token, number in tokens.items():
        forms.setdefault(_body(token, affixes), []).append(number)
    longest = max(map(len, forms))
    ids: set[int] = set()
    for piece in set(pieces):
        for start in range(len(piece)):
            for end in range(start + 1, min(start + longest, len(piece)) + 1):
                ids.update(forms.get(piece[start:end], ()))
    return ids


def _affixes(model: Spec) -> tuple[str, str]:
    """Return the prefix of a token inside a word, and the suffix of one that ends a word."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def _body(token: str, affixes: tuple[str, str]) -> str:
    prefix, suffix = affixes
    inner = token[len(prefix) :] if prefix and token.startswith(prefix) and len(token) > len(prefix) else token
    return inner[: -len(suffix)] if suffix and inner.endswith(suffix) and len(inner) > len(suffix) else inner


def _single(tokens: Mapping[str, int], model: Spec) -> set[str]:
    """Return the tokens of one character or byte, and those with a character that has no such token."""
    affixes = _affixes(model)
    single = {token for token in tokens if len(_body(token, affixes)) == 1}
    single |= {token for token in tokens if BYTE.fullmatch(token)} if model.get("byte_fallback") else set()
    if model["type"] == "BPE":  # its longer tokens are merges of single ones
        return single
    prefix = affixes[0]

    def is_covered(token: str) -> bool:
        inside = bool(prefix) and token.startswith(prefix)
        body = _body(token, affixes)
        return all((prefix if inside or at else "") + sign in single for at, sign in enumerate(body))

    return single | {token for token in tokens if not is_covered(token)}


def _makers(model: Spec) -> dict[str, list[tuple[str, str]]]:
    """Return for each token the pairs that merge into it; empty if the model has no merges."""
    makers: dict[str, list[tuple[str, str]]] = {}
    for left, right in map(pair, model.get("merges") or ()):
        makers.setdefault(merged(left, right, model), []).append((left, right))
    return makers


def pair(merge: str | list[str]) -> tuple[str, str]:
    """Parse a merge, which older files write as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def merged(left: str, right: str, model: Spec) -> str:
    """Return the token that a pair merges into."""
    prefix = _affixes(model)[0]
    return left + (right[len(prefix) :] if prefix and right.startswith(prefix) else right)


def _with_parts(
    kept: set[int], names: Mapping[int, str], tokens: Mapping[str, int], makers: Mapping[str, list[tuple[str, str]]]
) -> set[int]:
    complete, left = set(kept), list(kept)
    while left:
        for both in makers.get(names.get(left.pop(), ""), ()):
            for part in both:
                if part in tokens and tokens[part] not in complete:
                    complete.add(tokens[part])
                    left.append(tokens[part])
    return complete
