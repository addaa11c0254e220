"""Model folders under `base`, which tests set."""

from __future__ import annotations

from pathlib import Path

base = Path()


def get_folder_paths(folder: str) -> list[str]:
    return [str(base / folder)]


def get_filename_list(folder: str) -> list[str]:
    found = (base / folder).rglob("*")
    return sorted(str(path.relative_to(base / folder)) for path in found if path.is_file())


def get_full_path(folder: str, name: str) -> str | None:
    path = base / folder / name
    return str(path) if path.is_file() else None
