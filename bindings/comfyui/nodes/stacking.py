"""Adapters and how strongly they act, as a LORA_STACK: the list of (name, model weight, clip weight) that many node
packs share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import folder_paths
import lycomerge

from . import host

Entry = tuple[str, float, float]


def weight(what: str) -> tuple[str, dict[str, Any]]:
    """A widget for a weight."""
    settings = {
        "default": 1.0,
        "min": -100.0,
        "max": 100.0,
        "step": 0.01,
        "tooltip": f"How strongly it acts on {what}; any sign",
    }
    return ("FLOAT", settings)


class Loader:
    """Chooses an adapter."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = "An adapter of any family (LoKr, LoHa, LoRA, DoRA, …) from models/loras, and how strongly it acts."
    RETURN_TYPES = ("LORA_STACK",)
    RETURN_NAMES = ("lora_stack",)
    OUTPUT_TOOLTIPS = ("The stack given, and this adapter behind it",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = folder_paths.get_filename_list("loras")
        return {
            "required": {
                "lora_name": (names, {"tooltip": "A file in models/loras; PEFT's folders by the file in them"}),
                "model_weight": weight("the diffusion model"),
                "clip_weight": weight("the text encoders"),
            },
            "optional": {"lora_stack": ("LORA_STACK", {"tooltip": "Adapters that come before this one"})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str) -> bool | str:
        return host.valid("loras", lora_name)

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_others: Any) -> str:
        return host.fingerprint("loras", lora_name)

    def load(
        self, lora_name: str, model_weight: float, clip_weight: float, lora_stack: list[Entry] | None = None
    ) -> dict[str, Any]:
        found = lycomerge.inspect(host.find("loras", lora_name))
        text = f"{found.kind}, {found.layers} layers, {host.size(found.byte_len)}"
        return {"ui": {"text": [text]}, "result": ([*(lora_stack or []), (lora_name, model_weight, clip_weight)],)}


class GrowingStacks(dict[str, Any]):
    """Inputs that grow. The editor, which reads the items, shows the first, and adds a free one behind the last that is
    used. The server, which goes through the names, knows and checks them all."""

    _KIND = ("LORA_STACK", {"tooltip": "Adapters; another input appears when this one is used"})
    _NAMES = [f"stack_{number}" for number in range(1, 257)]

    def __init__(self) -> None:
        super().__init__({self._NAMES[0]: self._KIND})

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __contains__(self, key: object) -> bool:
        return key in self._NAMES

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return self._KIND


class Stack:
    """Joins stacks."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = "Puts adapters in a row: of any number of loaders, and of other packs' LORA_STACK nodes."
    RETURN_TYPES = ("LORA_STACK",)
    RETURN_NAMES = ("lora_stack",)
    OUTPUT_TOOLTIPS = ("All adapters, in the order of the inputs",)
    FUNCTION = "join"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}, "optional": GrowingStacks()}

    def join(self, **stacks: list[Entry] | None) -> tuple[list[Entry]]:
        def number(name: str) -> int:
            return int(name.rpartition("_")[2])

        return ([entry for name in sorted(stacks, key=number) for entry in stacks[name] or []],)
