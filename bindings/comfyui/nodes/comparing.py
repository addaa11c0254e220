"""Inspect / Compare Adapters: what adapters are, how they stand to each other, and what storing their merge costs."""

from __future__ import annotations

import io
from typing import Any

import lycomerge
import numpy
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image

from . import host
from .recipe import Input, Recipe
from .stacking import Entry


class Compare(host.WithBase):
    """Looks into adapters."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = (
        "What each adapter is; how alike they are, by cosine and by block; and how large the file of their merge would "
        "be at which error."
    )
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("comparison", "size_against_error", "report")
    OUTPUT_TOOLTIPS = (
        "Cosines of every two adapters, and norms by block",
        "File size against error, for every format",
        "The same in words and numbers",
    )
    FUNCTION = "compare"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The adapters and their weights"}),
                "dark": ("BOOLEAN", {"default": True, "tooltip": "Light on dark, not dark on light"}),
            },
            "optional": {"base": host.base_widget()},
        }

    def compare(self, lora_stack: list[Entry], dark: bool, base: str = host.NO_BASE) -> dict[str, Any]:
        if not lora_stack:
            raise ValueError("the stack has no adapters: connect an Adapter Loader")
        recipe = Recipe([Input.of(entry, "") for entry in lora_stack], {}, None if base == host.NO_BASE else base)
        merge = recipe.merge()
        parts = [[_inspected(number, recipe.open(number), name) for number, (name, *_) in enumerate(lora_stack)]]
        # One adapter has nothing to be compared with: what shows the picture doesn't run.
        compared: Any = ExecutionBlocker(None)
        if len(lora_stack) > 1:
            comparison = merge.compare(host.progress())
            compared = _image(comparison.picture("png", dark=dark))
            parts.append(_compared(comparison.data))
        else:
            parts.append(_blocks(recipe.open(0)))
        plan = merge.plan(host.progress())
        parts.append(host.qualities(plan.data))
        text = "\n\n".join("\n".join(lines) for lines in parts)
        return {"ui": {"text": [text]}, "result": (compared, _image(plan.picture("png", dark=dark)), text)}


def _image(png: bytes) -> Any:
    """A picture as ComfyUI has it: a batch of one, height × width × 3, from 0 to 1."""
    with Image.open(io.BytesIO(png)) as picture:
        pixels = numpy.array(picture.convert("RGB"), dtype=numpy.float32) / 255
    return torch.from_numpy(pixels)[None]


def _inspected(number: int, adapter: lycomerge.Adapter, name: str) -> str:
    found = lycomerge.inspect(adapter)
    ranks = ", ".join(str(rank) for rank in found.ranks)
    facts = [found.kind, f"{found.layers} layers", host.size(found.byte_len), "/".join(found.dtypes)]
    if ranks:
        facts.append(f"rank {ranks}")
    if version := found.metadata.get("ss_base_model_version"):
        facts.append(version)
    return f"{number + 1}: {name}: {', '.join(facts)}"


def _blocks(adapter: lycomerge.Adapter) -> list[str]:
    """How strongly an adapter acts in every block."""
    return [f"norm of {block['name']}: {block['norm']:.3g}" for block in adapter.survey()["blocks"]]


def _compared(data: dict[str, Any]) -> list[str]:
    """Norms, cosines, and what the library advises."""
    inputs = data["inputs"]
    lines = [f"norm of {number}: {given['norm']:.3g}" for number, given in enumerate(inputs, 1)]
    for one in range(len(inputs)):
        for other in range(one + 1, len(inputs)):
            lines.append(
                f"{one + 1} and {other + 1}: cosine {data['cosines'][one][other]:.2f}, "
                f"overlap of spaces {host.percent(data['overlaps'][one][other])}, "
                f"conflicting signs {host.percent(data['sign_conflicts'][one][other])}"
            )
    return lines + list(data["advice"])
