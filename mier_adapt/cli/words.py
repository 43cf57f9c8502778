"""Words of the command line, and of its errors."""

import difflib
import re
from collections.abc import Iterable, Mapping


class UsageError(ValueError):
    """What is wrong with a command, in words of the command line already."""


def require_known(kind: str, word: str, known: Iterable[str]) -> None:
    """Raise a UsageError that suggests the nearest of the known words."""
    known = sorted(known)
    if word not in known:
        nearest = "".join(
            f" Did you mean {close}?" for close in difflib.get_close_matches(word, known, n=1)
        )
        raise UsageError(f"There is no {kind} {word}.{nearest} There are: {', '.join(known)}.")


def in_shell_words(message: str, names: Mapping[str, str]) -> str:
    """An error of a Python call, with options for what it names.

    Args:
        message: As ``adapt expected seeds >= 1, got 0. …``.
        names: Options, with their dashes, by Python's names.
    """

    def subject(found: re.Match[str]) -> str:
        if found[1] in names:
            return f"{names[found[1]]} expected"
        return f"Expected {found[1]}{found[2]}"  # without Python's function or class

    def assignment(found: re.Match[str]) -> str:
        if found[1] not in names:
            return found[0]
        if found[2] == "False":
            return f"--no-{names[found[1]].removeprefix('--')}"
        return names[found[1]] if found[2] == "True" else f"{names[found[1]]} {found[2]}"

    def word(found: re.Match[str]) -> str:
        return names.get(found[0], found[0])

    message = re.sub(r"^\w+ expected (\w+)((?:\[\d+\])?)(?= )", subject, message)
    message = re.sub(r"(?<![\w/.'-])(\w+)=(\w+)", assignment, message)
    return re.sub(r"(?<![\w/.'-])[a-z]+(?:_[a-z]+)+(?![\w/.'(-]\w)", word, message)
