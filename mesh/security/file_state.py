"""The state of files on disk, by which a change is seen without reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def state_of(*paths: Path) -> tuple[tuple[int, int, int, int], ...] | None:
    """Returns a value that differs after any file was written or replaced; None if one is missing.

    A symlink is followed: Kubernetes renews a mounted Secret by swapping a symlink to its folder,
    and the times of the new file may equal those of the old.
    """
    try:
        states = [path.stat() for path in paths]
    except OSError:
        return None
    return tuple((at.st_dev, at.st_ino, at.st_mtime_ns, at.st_size) for at in states)
