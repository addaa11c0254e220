"""Apply Merged Adapter: the merge on a model, without a file."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import lycomerge

from . import host
from .recipe import TYPE, Recipe
from .stacking import weight

#: What adapters call a layer, to what ComfyUI calls the weight: a name, or a name and which part of the weight.
KeyMap = Mapping[str, Any]


class ApplyMerged:
    """Applies a merge to a model and its text encoders."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = (
        "Applies the merge to a model, exact to float16 rounding. Nothing is saved; other strengths take no second "
        "merge."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("model", "clip", "report")
    OUTPUT_TOOLTIPS = ("The model, patched", "The text encoders, patched", "What was applied, and how exactly")
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model"}),
                "merge": (TYPE, {"tooltip": "From Merge Adapters"}),
                "strength_model": weight("the diffusion model"),
                "strength_clip": weight("the text encoders"),
            },
            "optional": {
                "clip": (
                    "CLIP",
                    {"tooltip": "The text encoders; without them, what the merge does to them is left out"},
                )
            },
        }

    def apply(
        self, model: Any, merge: Recipe, strength_model: float, strength_clip: float, clip: Any = None
    ) -> dict[str, Any]:
        keys: dict[str, Any] = {}
        comfy.lora.model_lora_keys_unet(model.model, keys)
        if clip is not None:
            comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
        # Where ComfyUI doesn't know the inputs' own names, it knows kohya's.
        layers = merge.open(0).layers
        known = all(layer.name in keys for layer in layers)
        merged, report = merge.exact(None if known else "kohya")

        state = comfy.lora_convert.convert_lora({tensor.name: tensor.torch() for tensor in merged.tensors()})
        unknown = sorted({name for name in state if not any(stem in keys for stem in _stems(name))})
        _check_shapes(merged.layers, keys, _shapes(model, clip))
        patches = comfy.lora.load_lora(state, keys)
        model, on_model = _patched(model, patches, strength_model)
        clip, on_clip = _patched(clip, patches, strength_clip)
        if not on_model | on_clip:
            raise ValueError(
                f"none of the merge's {len(merged.layers)} layers is one of this model, which has no "
                f"{merged.layers[0].name}: the adapters are for another model"
            )
        text = (
            f"{len(on_model)} weights of the model and {len(on_clip)} of the text encoders changed, "
            f"exact to {report.relative_error:.1e}"
        )
        if unknown:
            left = (
                f"{len(unknown)} tensors are for weights that ComfyUI doesn't know in this model, "
                f"the first of them {unknown[0]}"
            )
            if clip is None:
                left += "; the text encoders are not connected"
            logging.warning("lycomerge: %s", left)
            text += f"\nleft out: {left}"
        return {"ui": {"text": [text]}, "result": (model, clip, text)}


def _stems(tensor: str) -> Iterator[str]:
    """What might be the layer's name in a tensor's: all that ends before a dot, or is followed by `_lora`."""
    while "." in tensor:
        tensor = tensor.rpartition(".")[0]
        yield tensor
        yield tensor.removesuffix("_lora")


def _shapes(model: Any, clip: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights, by ComfyUI's names."""
    networks = [model.model] if clip is None else [model.model, clip.cond_stage_model]
    return {name: tuple(weight.shape) for network in networks for name, weight in network.state_dict().items()}


def _check_shapes(layers: list[lycomerge.Layer], keys: KeyMap, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses what doesn't fit: ComfyUI would leave it out, with a line in its log."""
    for layer in layers:
        # A part of a weight has rows of its own, and only ComfyUI knows which.
        key = keys.get(layer.name)
        if layer.param != "weight" or not isinstance(key, str) or key not in shapes:
            continue
        rows, *rest = shapes[key] or (1,)
        if (layer.rows, layer.cols) != (rows, math.prod(rest)):
            raise ValueError(
                f"{layer.name}: the merge changes a weight of {layer.rows}×{layer.cols}, and this model's is "
                f"{rows}×{math.prod(rest)}: the adapters are for another model"
            )


def _patched(patcher: Any, patches: Mapping[Any, Any], strength: float) -> tuple[Any, set[Any]]:
    """A copy with the patches that are for it, and which those are."""
    if patcher is None:
        return None, set()
    copy = patcher.clone()
    return copy, set(copy.add_patches(patches, strength))
