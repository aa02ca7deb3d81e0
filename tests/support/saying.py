"""Texts that people read."""


def says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, part
