"""A merge that has been asked for and not run yet: what Merge Adapters gives to the nodes behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import lycomerge

from . import host
from .stacking import Entry

#: The type of the link between the nodes.
TYPE = "LYCOMERGE"

#: Which numbers no float16 can tell apart: stored tensors are rounded to within 2^-11 of each entry.
_FLOAT16 = 1e-3

#: The options that say what a merge is, not how its result is stored.
_EFFECT = {"strategy", "normalize", "norm_threshold", "space", "skip_unknown", "threads", "memory"}

#: The options that say in which form a result is stored and how exactly, which a quality says in their place.
_FORM = {"format", "quality", "tolerance", "max_size", "rank", "conv_rank", "sv_ratio", "sv_cumulative", "sv_fro"}


@dataclass(frozen=True)
class Input:
    """An adapter of a merge."""

    name: str
    weight: float
    block_weights: str

    @classmethod
    def of(cls, entry: Entry, blocks: str) -> Input:
        """A stack's entry, with what block weights say besides. A merge knows one weight an input; where the stack has
        two, the text encoders get the rest of theirs as a strength of their own."""
        name, model, clip = entry
        if model == clip:
            return cls(name, model, blocks)
        if model == 0:
            return cls(name, clip, f"unet=0 {blocks}".strip())
        return cls(name, model, f"te={clip / model!r} {blocks}".strip())


@dataclass
class Recipe:
    """Adapters and the options of their merge."""

    inputs: list[Input]
    options: dict[str, str]
    base: str | None = None
    _exact: dict[str | None, tuple[lycomerge.Adapter, lycomerge.Report]] = field(default_factory=dict, repr=False)

    def merge(self) -> lycomerge.Merge:
        """The merge. Files are opened anew, so that none is kept open: systems that can't replace an open file would
        refuse to save over an input."""
        return self._merge(self.options)

    def of_quality(self, quality: str) -> lycomerge.Merge:
        """The merge at a named quality, whatever else was said about its form and how exact it is to be."""
        kept = {name: value for name, value in self.options.items() if name not in _FORM}
        return self._merge({**kept, "quality": quality})

    def _merge(self, options: dict[str, Any]) -> lycomerge.Merge:
        made = lycomerge.Merge(**options)
        for number, given in enumerate(self.inputs):
            adapter = self.open(number)
            made.add(adapter, given.weight, given.block_weights or None)
        return made

    def open(self, number: int) -> lycomerge.Adapter:
        """An input."""
        base = self.base and host.find("checkpoints", self.base)
        skip = self.options.get("skip_unknown") == "true"
        path = host.find("loras", self.inputs[number].name)
        return lycomerge.Adapter.open(path, skip_unknown=skip, base=base)

    def exact(self, naming: str | None) -> tuple[lycomerge.Adapter, lycomerge.Report]:
        """The result in memory, as exact as float16 is, each layer in its smallest form. It is kept: other strengths
        take no second merge."""
        if naming not in self._exact:
            stored = {"format": "auto", "tolerance": _FLOAT16, "dtype": "float16", "naming": naming}
            if self.options.get("format") == "full":
                # Some strategies work on other entries for dense output, so that stays dense.
                stored = {"format": "full", "dtype": "float16", "naming": naming}
            if self.options.get("match_norm") == "inputs":
                stored["match_norm"] = "inputs"
            kept = {name: value for name, value in self.options.items() if name not in _storing()}
            self._exact[naming] = self._merge({**kept, **stored}).run(host.progress())
        return self._exact[naming]


def _storing() -> set[str]:
    """The options that say how a result is stored."""
    return {option.name.replace("-", "_") for option in lycomerge.options()} - _EFFECT
