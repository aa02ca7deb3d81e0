"""Makes foreign text safe for a terminal: no control codes, no changes of writing direction, no forged lines."""

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Characters that change the writing direction (Unicode's bidirectional algorithm)."""
_LINE_ENDS = (*range(0x0A, 0x0E), *range(0x1C, 0x1F), 0x85, 0x2028, 0x2029)
"""Characters at which str.splitlines, or a terminal, ends a line."""
_CONTROLS = (*range(32), *range(127, 160))
UNSEEN = {code: "\ufffd" for code in (*_CONTROLS, *_DIRECTIONS, 0x2028, 0x2029) if chr(code) not in "\n\t"}
"""Code → replacement: names, labels and log lines are foreign text, and must not control the terminal."""
_IN_ONE_LINE = UNSEEN | dict.fromkeys(_LINE_ENDS, "⏎") | {0x09: " "}
_ESCAPED = {code: f"\\u{code:04x}" for code in UNSEEN if code >= 127}


def one_line(text: str) -> str:
    """Return a text in one line."""
    return text.translate(_IN_ONE_LINE)


def lines(text: str) -> str:
    """Return a text with its own line ends."""
    return text.replace("\r\n", "\n").translate(UNSEEN)


def escaped(document: str) -> str:
    """Return the same JSON with terminal control characters escaped; json escapes only those below 32."""
    return document.translate(_ESCAPED)
