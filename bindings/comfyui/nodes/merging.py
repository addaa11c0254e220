"""Merge Adapters: what is merged, and how."""

from __future__ import annotations

import re
from typing import Any

import lycomerge

from . import host
from .recipe import TYPE, Input, Recipe
from .stacking import Entry

#: Options that have a widget of their own; what is left has the box of settings.
_WIDGETS = ("strategy", "format", "dtype", "match-norm", "tolerance", "rank")


def _help(name: str) -> str:
    return next(option.help for option in lycomerge.options() if option.name == name)


def _menu(name: str) -> tuple[list[str], dict[str, Any]]:
    option = next(option for option in lycomerge.options() if option.name == name)
    return (list(option.choices), {"default": option.default, "tooltip": option.help})


def _box(placeholder: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("STRING", {"default": "", "multiline": True, "placeholder": placeholder, "tooltip": tooltip})


def _strategies() -> tuple[list[str], dict[str, Any]]:
    known = lycomerge.strategies()
    told = {
        row.name: {
            "title": row.title,
            "help": row.help,
            "parameters": [[one.name, one.default, one.takes, one.help] for one in row.parameters],
        }
        for row in known
    }
    settings = {"default": "weighted_sum", "tooltip": _help("strategy"), "lycomerge_strategies": told}
    return ([row.name for row in known], settings)


class MergeAdapters(host.WithBase):
    """Says what is to be merged and how, and what storing it will come to."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = (
        "Merges adapters by what they do to the weights. Apply the result to a model, or save it; the node says what "
        "size and error a file would have."
    )
    RETURN_TYPES = (TYPE, "STRING")
    RETURN_NAMES = ("merge", "forecast")
    OUTPUT_TOOLTIPS = ("For Apply Merged Adapter and Save Adapter", "Size and error of a file stored like this")
    FUNCTION = "prepare"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        others = [option for option in lycomerge.options() if option.name not in _WIDGETS]
        lines = "\n".join(f"{option.name}: {option.help}" for option in others)
        weights = "One for each adapter, such as 0.6 0.4, in place of the stack's"
        blocks = "A line each: NUMBER: TERMS for one adapter, TERMS alone for all"
        settings = f"NAME=VALUE each: what the strategy can be told, and further options.\n{lines}"
        tolerance = f"{_help('tolerance')}. 0: 0.01 for auto, else as exact as the dtype"
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The adapters and their weights"}),
                "strategy": _strategies(),
                "format": _menu("format"),
                "tolerance": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 0.99, "step": 0.001, "round": False, "tooltip": tolerance},
                ),
                "rank": ("INT", {"default": 0, "min": 0, "max": 65536, "tooltip": f"{_help('rank')}. 0: as needed"}),
                "dtype": _menu("dtype"),
                "match_norm": _menu("match-norm"),
            },
            "optional": {
                "weights": ("STRING", {"default": "", "placeholder": "0.6 0.4", "tooltip": weights}),
                "block_weights": _box("block weights: 2: IN04-IN08=0.5 te=0", blocks),
                "settings": _box("settings: density=0.3", settings),
                "base": host.base_widget(),
            },
        }

    def prepare(
        self,
        lora_stack: list[Entry],
        weights: str = "",
        block_weights: str = "",
        settings: str = "",
        base: str = host.NO_BASE,
        **widgets: Any,
    ) -> dict[str, Any]:
        inputs = _inputs(lora_stack, weights, block_weights)
        # 0 stands for what holds without being set.
        options = {name: str(value) for name, value in widgets.items() if value}
        recipe = Recipe(inputs, {**options, **_settings(settings)}, None if base == host.NO_BASE else base)
        forecast = recipe.merge().forecast(host.progress())
        text = f"about {host.size(forecast.byte_len)}, error about {host.percent(forecast.relative_error)}"
        if forecast.huge:
            text += f"; the inputs are {host.size(forecast.input_byte_len)}: Save Adapter has smaller qualities"
        return {"ui": {"text": [text]}, "result": (recipe, text)}


def _inputs(stack: list[Entry], weights: str, block_weights: str) -> list[Input]:
    if not stack:
        raise ValueError("the stack has no adapters: connect an Adapter Loader")
    said = [float(_number(word)) for word in re.split(r"[\s,;]+", weights) if word]
    if said and len(said) != len(stack):
        raise ValueError(f"weights: {len(said)} for {len(stack)} adapters; give one each, or none for the stack's own")
    if said:
        stack = [(name, weight, weight) for (name, *_), weight in zip(stack, said, strict=True)]
    blocks = _blocks(block_weights, len(stack))
    return [Input.of(entry, terms) for entry, terms in zip(stack, blocks, strict=True)]


def _number(word: str) -> str:
    try:
        float(word)
    except ValueError:
        raise ValueError(f"weights: '{word}' is not a number") from None
    return word


def _blocks(text: str, count: int) -> list[str]:
    """Each input's terms."""
    terms: list[list[str]] = [[] for _ in range(count)]
    for line in filter(None, map(str.strip, text.splitlines())):
        numbered = re.fullmatch(r"(\d+)\s*:\s*(.*)", line)
        if not numbered:
            for one in terms:
                one.append(line)
            continue
        number = int(numbered[1])
        if not 1 <= number <= count:
            raise ValueError(f"block weights: '{line}': the adapters are counted from 1 to {count}")
        terms[number - 1].append(numbered[2])
    return [" ".join(one) for one in terms]


def _settings(text: str) -> dict[str, str]:
    """NAME=VALUE, by lines or spaces."""
    found = {}
    for word in re.split(r"[\s,;]+", text):
        name, equals, value = word.partition("=")
        if word and not (name and equals and value):
            raise ValueError(f"settings: '{word}' is not NAME=VALUE, such as density=0.3")
        if word:
            found[name.replace("-", "_")] = value
    return found
