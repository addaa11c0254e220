"""What every node asks of ComfyUI."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths

#: Where the nodes stand in the menu.
CATEGORY = "lycomerge"

#: The first entry of the menu of checkpoints.
NO_BASE = "none"


def find(folder: str, name: str) -> str:
    """The path of a file in one of ComfyUI's model folders."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"{name}: there is no such file in models/{folder}; if it was moved or renamed, press R to read the "
            "folders again and choose it anew"
        )
    return str(path)


def valid(folder: str, name: str) -> bool | str:
    """What VALIDATE_INPUTS says about a file: True, or what is wrong with it."""
    try:
        find(folder, name)
    except FileNotFoundError as error:
        return str(error)
    return True


def fingerprint(folder: str, name: str) -> str:
    """Another text whenever the file is another one."""
    found = os.stat(find(folder, name))
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def base_widget() -> tuple[list[str], dict[str, Any]]:
    """A menu of checkpoints, for adapters that need theirs."""
    tooltip = "The checkpoint that the adapters were trained on: DoRA, OFT and others need it"
    return ([NO_BASE, *folder_paths.get_filename_list("checkpoints")], {"default": NO_BASE, "tooltip": tooltip})


class WithBase:
    """A node that has such a menu, as `base`."""

    @classmethod
    def VALIDATE_INPUTS(cls, base: str = NO_BASE) -> bool | str:
        return base == NO_BASE or valid("checkpoints", base)

    @classmethod
    def IS_CHANGED(cls, base: str = NO_BASE, **_others: Any) -> str:
        return "" if base == NO_BASE else fingerprint("checkpoints", base)


def progress() -> Callable[[str, int, int], None]:
    """Moves the node's progress bar, and stops the work where somebody asked for that."""
    bar = comfy.utils.ProgressBar(1)

    def hear(_stage: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return hear


def size(byte_len: int) -> str:
    """A file's size, for people."""
    for unit, width in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if byte_len >= width:
            return f"{byte_len / width:.3g} {unit}"
    return f"{byte_len} bytes"


def percent(share: float) -> str:
    """A relative error, for people."""
    return f"{100 * share:.2g} %"


def qualities(plan: dict[str, Any]) -> list[str]:
    """A line for each quality of a plan: how large the file would be, and how exact."""
    return [
        f"{one['quality']}: about {size(one['bytes'])}, error about {percent(one['error'])}" for one in plan["qualities"]
    ]
