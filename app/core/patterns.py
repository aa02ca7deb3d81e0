"""What the regular expressions of requests mean, in words: a caller is told these and not the expression."""

_MARKS = "it may hold no control characters"
WORDS = {
    r"^[^\x00]*$": "it may hold no NUL character",
    r"^[^\x00]*[^\x00\s][^\x00]*$": "it may not be blank, and may hold no NUL character",
    r"^[^\x00-\x1f]+$": _MARKS,
    r'^[^\x00-\x1f":\\]+$': f'{_MARKS}, and none of " : \\',
    r'^[^\x00-\x1f":\\]+:': "it is not key:value",
    r'^[^\x00-\x1f\x7f\\<>:"|?*]+$': f'{_MARKS}, and none of \\ < > : " | ? *',
    r"^[^\x00\s]+$": "it may hold no space and no NUL character",
    r"^[ -~]*$": "it may hold only printable ASCII characters",
    r"^[0-9a-f]{64}$": "it is not a SHA-256 of 64 lower-case hexadecimal digits",
    r"^([a-z0-9][a-z0-9-]*)?$": "it may hold only a-z, 0-9 and -, and starts with a letter or digit",
    r"^[a-z0-9][a-z0-9-]*$": "it may hold only a-z, 0-9 and -, and starts with a letter or digit",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "it may hold only letters, digits, . _ and -, and starts with a letter or digit",
    r"^[A-Za-z0-9][\w.-]{0,99}$": "it may hold only letters, digits, . _ and -, starts with a letter or digit, 100 at most",
    r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$": (
        "it is not a path whose parts hold only letters, digits, . _ and -"
    ),
    r"^[a-z]{2,3}(_[A-Za-z]+)?-[a-z]{2,3}(_[A-Za-z]+)?$": "it is not a pair of languages such as eng-deu",
    r"^[A-Za-z0-9+/]+={0,2}$": "it is not base64",
    r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$": "it is not a PNG or JPEG as a data address",
}
"""Regular expression → what a text that does not match does wrong. A test keeps it complete for the OpenAPI document."""


def describe(pattern: str) -> str:
    """Return in words what a text that does not match a pattern does wrong."""
    return WORDS.get(pattern, f"it does not match {pattern}")
