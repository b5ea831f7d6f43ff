"""Bounds what a regular expression costs, in RE2's syntax, from its text alone.

RE2 compiles a pattern at each use and matches in linear time: both costs grow with the length of
the program, in which a part occurs as often as it may be repeated.
"""

from __future__ import annotations

import re

MAX_PATTERN_LENGTH = 4000  # of the program, in instructions about as costly as one character

# RE2's Unicode tables: up to a thousand ranges of bytes.
_UNICODE_CLASS = 600
_CLASS = 2  # one that may match characters of several bytes, such as ``.`` and ``\W``
_FOLDED = 2  # times as long: letters match in either case

_IGNORES_CASE = re.compile(r"\(\?[a-zA-Z]*i")
_COUNTED = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_TOKEN = re.compile(
    r"""(?P<unicode>\\[pP](?:\{[^}]*\}|.))
    |(?P<quoted>\\Q.*?(?:\\E|\Z))
    |(?P<escape>\\(?:x\{[^}]*\}|.))
    |(?P<set>\[\^?\]?(?:\[:[^\]]*:\]|\\[pP]\{[^}]*\}|\\.|[^\]\\])*\])
    |(?P<open>\((?:\?(?:P?<[A-Za-z0-9_]+>|[a-zA-Z-]*:?))?)
    |(?P<close>\))
    |(?P<repeat>[*+?])
    |(?P<any>.)""",
    re.DOTALL | re.VERBOSE,
)


def program_length(pattern: str) -> int:
    """Returns a bound of the length of the pattern's program."""
    times = _FOLDED if _IGNORES_CASE.search(pattern) else 1
    outer: list[tuple[int, int]] = []  # of the groups around: their lengths so far
    total, last = 1, 0  # of this group: before its last part, and that part
    at = 0
    while at < len(pattern):
        if counted := _COUNTED.match(pattern, at):
            last *= _repetitions(counted)
            at = counted.end()
            continue
        token = _TOKEN.match(pattern, at)
        assert token is not None, "any character is a token"  # noqa: S101
        at = token.end()
        if token["repeat"]:
            last += 1
        elif token["open"]:
            outer.append((total + last, 0))
            total, last = 2, 0
        elif token["close"] and outer:
            last, (total, _) = total + last, outer.pop()
        else:
            total, last = total + last, _length(token)
    return times * (sum(length for length, _ in outer) + total + last)


def _repetitions(counted: re.Match[str]) -> int:
    least = int(counted[1][:5])
    most = int(counted[3][:5]) if counted[3] else least + bool(counted[2])
    return max(least, most, 1)


def _length(token: re.Match[str]) -> int:
    text = token[0]
    if token["unicode"]:
        return _UNICODE_CLASS
    if token["set"]:
        tables = text.count("\\p") + text.count("\\P")
        return _CLASS + len(text) // 16 + _UNICODE_CLASS * tables
    if token["quoted"]:
        return len(text)
    return _CLASS if text == "." or token["escape"] else 1
