"""Model versions on disk, ``NAME/VERSION/``: a directory is written once and never changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mesh.settings import ConfigError
from services.ml import registry
from services.ml.manifest import MANIFEST
from services.ml.registry import ModelRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from services.ml.model import Model

MAX_FILE_BYTES = 64 * 1024 * 1024


def read_models(folder: Path) -> ModelRegistry:
    """Reads every version below ``folder``.

    Raises ConfigError if there is none, or if one is not what was released.
    """
    directories = sorted(path.parent for path in folder.glob(f"*/*/{MANIFEST}"))
    if not directories:
        raise ConfigError(f"there is no model in {folder}; set ANYA_MODELS to a folder of models")
    return ModelRegistry(map(read_model, directories))


def read_model(directory: Path) -> Model:
    """Reads one version. Raises ConfigError if it is not what was released."""
    try:
        contents = {path.name: _read(path) for path in directory.iterdir()}
        return registry.load(contents, name=directory.parent.name, version=directory.name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the model in {directory} cannot be served: {error}") from None


def write_version(directory: Path, files: dict[str, bytes]) -> None:
    """Writes all files of a version, or none. Raises FileExistsError if the version exists."""
    if directory.exists():
        raise FileExistsError(f"{directory} was released before; a version never changes")
    draft = directory.with_name(f".{directory.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    for name, content in files.items():
        with (draft / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    draft.rename(directory)


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()
