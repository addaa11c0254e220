"""Save Adapter: the merge as a file that every host loads."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import folder_paths
import lycomerge

from . import host
from .recipe import TYPE, Recipe

#: What the menu of qualities has besides them.
SHOW, AS_SET = "show sizes", "as set"

NUMBER, OVERWRITE, REFUSE = "number the new one", "overwrite", "refuse"


class SaveAdapter:
    """Stores a merge in models/loras."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = (
        "Saves the merge into models/loras. 'show sizes' saves nothing yet and shows the size and error of every "
        "quality: choose one, and queue again."
    )
    RETURN_TYPES = ("LORA_STACK", "STRING")
    RETURN_NAMES = ("lora_stack", "report")
    OUTPUT_TOOLTIPS = ("The saved file, as a stack of one; empty where nothing is saved yet", "What the node shows")
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        quality = next(option for option in lycomerge.options() if option.name == "quality")
        return {
            "required": {
                "merge": (TYPE, {"tooltip": "From Merge Adapters"}),
                "filename": ("STRING", {"default": "merged", "tooltip": "In models/loras; folders in it are made"}),
                "quality": (
                    [SHOW, AS_SET, *quality.choices],
                    {"default": SHOW, "tooltip": f"{quality.help}; or '{AS_SET}' in Merge Adapters"},
                ),
                "if_it_exists": (
                    [NUMBER, OVERWRITE, REFUSE],
                    {"default": NUMBER, "tooltip": "Where there is a file of this name"},
                ),
            }
        }  # fmt: skip

    @classmethod
    def VALIDATE_INPUTS(cls, filename: str) -> bool | str:
        try:
            _path(filename)
        except ValueError as error:
            return str(error)
        return True

    def save(self, merge: Recipe, filename: str, quality: str, if_it_exists: str) -> dict[str, Any]:
        if quality == SHOW:
            plan = merge.merge().plan(host.progress())
            text = "\n".join([*host.qualities(plan.data), "choose a quality and queue again to save"])
            return {"ui": {"text": [text]}, "result": ([], text)}
        path = _free(_path(filename), if_it_exists)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = merge.merge() if quality == AS_SET else merge.of_quality(quality)
        report = chosen.run_to(path, host.progress())
        name = str(path.relative_to(_folder()))
        text = _certificate(name, path.stat().st_size, report)
        return {"ui": {"text": [text]}, "result": ([(name, 1.0, 1.0)], text)}


def _folder() -> Path:
    return Path(folder_paths.get_folder_paths("loras")[0]).absolute()


def _path(filename: str) -> Path:
    """Where a file of this name goes; nowhere but into models/loras."""
    name = filename.strip().replace("\\", "/")
    if ":" in name or not all(part.strip(". ") for part in name.split("/")):
        raise ValueError(f"'{filename}' is no name for a file in models/loras, such as merged or styles/merged")
    if Path(name).suffix not in {".safetensors", ".pt", ".pth", ".ckpt", ".bin"}:
        name += ".safetensors"
    return _folder() / name


def _free(path: Path, if_it_exists: str) -> Path:
    """The path, or what is to be taken in its place."""
    if not path.exists() or if_it_exists == OVERWRITE:
        return path
    if if_it_exists == REFUSE:
        raise FileExistsError(f"{path.name} exists already: choose another name, or another 'if it exists'")
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in numbered if not one.exists())


def _certificate(name: str, byte_len: int, report: lycomerge.Report) -> str:
    """What was stored, and how exactly."""
    layers = report.layers
    families = ", ".join(f"{count} {family}" for family, count in Counter(one.family for one in layers).most_common())
    lines = [
        f"saved {name}: {host.size(byte_len)}",
        f"{len(layers)} layers ({families})",
        f"error {host.percent(report.relative_error)}, measured on what was stored",
    ]
    if layers:
        worst = max(layers, key=lambda one: one.relative_error)
        lines.append(f"most in {worst.name}: {host.percent(worst.relative_error)}")
    return "\n".join(lines + report.data.get("warnings", []))
