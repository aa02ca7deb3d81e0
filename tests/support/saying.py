"""Texts that people read."""


def says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, part


def lacks(text: str, *parts: str) -> None:
    """Assert that a text has none of these parts."""
    for part in parts:
        assert part not in text, part
