"""Text that others wrote, made fit for a terminal: it steers nothing, turns no writing round, and forges no line."""

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""They turn the order of what follows, or of the whole line (Unicode's bidirectional algorithm)."""
_LINE_ENDS = (*range(0x0A, 0x0E), *range(0x1C, 0x1F), 0x85, 0x2028, 0x2029)
"""What str.splitlines, or a terminal, ends a line at."""
_CONTROLS = (*range(32), *range(127, 160))
UNSEEN = {code: "\ufffd" for code in (*_CONTROLS, *_DIRECTIONS, 0x2028, 0x2029) if chr(code) not in "\n\t"}
"""Code → what is shown for it: names, labels and log lines are others', and must not steer the terminal."""
_IN_ONE_LINE = UNSEEN | dict.fromkeys(_LINE_ENDS, "⏎") | {0x09: " "}
_ESCAPED = {code: f"\\u{code:04x}" for code in UNSEEN if code >= 127}


def one_line(text: str) -> str:
    """Return a text in one line."""
    return text.translate(_IN_ONE_LINE)


def lines(text: str) -> str:
    """Return a text in its own lines, whatever ends them."""
    return text.replace("\r\n", "\n").translate(UNSEEN)


def escaped(document: str) -> str:
    """Return the same JSON with what steers a terminal spelt out: json escapes only the control characters below 32."""
    return document.translate(_ESCAPED)
