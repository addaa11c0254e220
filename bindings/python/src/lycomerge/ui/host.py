"""What the page needs from whoever shows it: which adapters there are, and where results go."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: How the names of files end that may be adapters or checkpoints.
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")

#: How the names of results end.
ENDING = ".safetensors"

#: What no part of a result's name may have: it means something else to some system.
_FORBIDDEN = set('<>:"|?*')


class WrongInput(ValueError):
    """What was asked for can't be done; the message says what to do instead."""


def _nothing() -> None:
    """For hosts that need not be told."""


@dataclass(frozen=True)
class Host:
    """A host: its adapters and checkpoints by the names that people choose them by, the folder that results go to, and
    what it wants to hear when there is a new one."""

    adapters: Callable[[], Mapping[str, Path]]
    checkpoints: Callable[[], Mapping[str, Path]]
    output_folder: Callable[[], Path]
    saved: Callable[[], None] = _nothing

    @classmethod
    def of_folder(cls, folder: Path) -> Host:
        """A folder that has both, and takes the results."""
        return cls(lambda: files_in(folder), lambda: files_in(folder), lambda: folder)


def files_in(folder: Path) -> dict[str, Path]:
    """The files that may be adapters, in the folder and those below it, by their names from there. Links are followed:
    whoever put them there wants it."""
    found = {}
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # A link that leads back.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(place, name)
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def chosen(files: Mapping[str, Path], name: str) -> Path:
    """The file of this name. Only what is listed can be had, whatever was typed."""
    if name not in files:
        raise WrongInput(f"{name} is not in the folder any more; refresh the list and choose again")
    return files[name]


def result_path(folder: Path, typed: str, replace: bool) -> Path:
    """Where a result of this name goes, which is in the folder or one below it."""
    name = typed.strip().replace("\\", "/").removesuffix(ENDING)
    parts = name.split("/")
    if not name:
        raise WrongInput("Give the result a name")
    strange = any(letter in _FORBIDDEN or not letter.isprintable() for letter in name)
    if strange or any(part in ("", ".", "..") or part != part.strip() for part in parts):
        raise WrongInput(f"“{typed}” can't be the name of a result, which is a plain name, for a file in {folder}")
    path = folder.joinpath(*parts[:-1], parts[-1] + ENDING)
    if not path.parent.is_dir():
        raise WrongInput(f"There is no folder {path.parent}")
    if path.exists() and not replace:
        raise WrongInput(f"{path.name} exists; choose another name, or tick “replace”")
    return path
