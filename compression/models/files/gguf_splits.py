"""Splits before merging that the stock reader does not know, as in the models' own tokenizer.json.

Source: deepseek-ai's deepseek-llm-7b-base and deepseek-coder-6.7b-base, and llama.cpp (llama-vocab.cpp). Each expression splits
what the previous one left, then every digit becomes a piece; neither vocabulary has a merge of two digits.
"""

from typing import Any

LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5
3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15
1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC
1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D
212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B
A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB
10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
"""Code points of the letters that make a word. They are the letters with two cases, of the scripts that deepseek-llm names.
They are given as numbers, because some letters would become others if a file is normalized."""


def _class(points: str) -> str:
    ends = [part.partition("-") for part in points.split()]
    return "".join(f"{chr(int(first, 16))}{dash}{chr(int(last, 16)) if last else ''}" for first, dash, last in ends)


LINE_ENDS = r"[\r\n]"
EAST_ASIAN = f"[{_class('4E00-9FA5 800-4E00 AC00-D7FF')}]+"
OWN_SPLITS: dict[str, tuple[str, ...]] = {
    "deepseek-llm": (
        LINE_ENDS,
        rf"\s?[{_class(LETTERS)}]+",
        rf"\s?[{_class('21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002')}]+",
        r"\s+$",
        EAST_ASIAN,
    ),
    "deepseek-coder": (LINE_ENDS, r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN),
}
"""Expressions by tokenizer.ggml.pre."""


def pre_tokenizer(name: str) -> dict[str, Any]:
    """Return the pre_tokenizer entry of a tokenizer.json for this split."""
    cuts = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in OWN_SPLITS[name]
    ]
    digits = {"type": "Digits", "individual_digits": True}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*cuts, digits, as_bytes]}
