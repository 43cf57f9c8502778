"""Text files that are replaced as a whole."""

from pathlib import Path

from mier_adapt._checks import require_types

__all__ = ["replace_text"]


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, finds the old one or the new one.

    Raises:
        OSError: If the disk refuses; an older file stays whole.
    """
    require_types("replace_text", path=(path, Path), text=(text, str))
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
