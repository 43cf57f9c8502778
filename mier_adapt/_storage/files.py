"""Text files that are replaced as a whole."""

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, finds the old one or the new one.

    Raises:
        OSError: If the disk refuses; an older file stays whole.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
