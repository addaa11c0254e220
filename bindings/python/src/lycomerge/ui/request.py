"""What the form asks for, as a merge of the library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .. import Adapter, Merge, Option, Parameter, Strategy, options, strategies
from .host import Host, WrongInput, chosen

#: The options that most merges are decided by, which the page shows first. The rest follows, whatever there is.
FIRST = ("quality", "format", "dtype", "rank", "max-size")


@cache
def all_strategies() -> Mapping[str, Strategy]:
    """The library's strategies by their titles."""
    return {strategy.title: strategy for strategy in strategies()}


@cache
def storing() -> tuple[Option, ...]:
    """The options that no strategy has for a parameter; those of `FIRST` first."""
    names = {parameter.name for strategy in strategies() for parameter in strategy.parameters} | {"strategy"}
    kept = [option for option in options() if option.name in FIRST or option.name.replace("-", "_") not in names]
    return tuple(sorted(kept, key=lambda option: FIRST.index(option.name) if option.name in FIRST else len(FIRST)))


@cache
def parameters() -> tuple[Parameter, ...]:
    """Every parameter of a strategy, each once."""
    taken = {option.name for option in storing()}
    every = [parameter for strategy in strategies() for parameter in strategy.parameters]
    return tuple(dict.fromkeys(parameter for parameter in every if parameter.name not in taken))


def words_of(parameter: Parameter) -> list[str]:
    """The words that a parameter takes; none where it takes a number."""
    if parameter.takes == "true or false":
        return ["true", "false"]
    return parameter.takes.removeprefix("one of ").split(", ") if parameter.takes.startswith("one of ") else []


@dataclass(frozen=True)
class Row:
    """An adapter of the form."""

    name: str
    weight: float | None = 1.0
    block_weights: str = ""


def rows_for(names: Sequence[str], before: Sequence[Row]) -> list[Row]:
    """Rows for these adapters: those that had one keep it."""
    known = {row.name: row for row in before}
    return [known.get(name, Row(name)) for name in names]


@dataclass(frozen=True)
class Request:
    """What is to be merged, and how."""

    rows: Sequence[Row]
    base: str | None
    strategy: Strategy
    #: What was typed for all parameters, of any strategy, and for all options.
    given: Mapping[Parameter | Option, str]

    def settings(self) -> dict[str, str]:
        """What is set otherwise than the library would have it: of parameters, those that the strategy has."""
        wanted: tuple[Parameter | Option, ...] = (
            *storing(), *(parameter for parameter in self.strategy.parameters if parameter in parameters())
        )  # fmt: skip
        texts = {item: self.given.get(item, "").strip() for item in wanted}
        set_ = {item.name: text for item, text in texts.items() if text and text != item.default}
        return {"strategy": self.strategy.name, **set_}

    def merge(self, host: Host) -> Merge:
        """The merge. Files are opened anew for each, so that the page keeps none open."""
        if not self.rows:
            raise WrongInput("Choose one adapter at least")
        settings = self.settings()
        merge = Merge(**settings)
        base = chosen(host.checkpoints(), self.base) if self.base else None
        files = host.adapters()
        for row in self.rows:
            adapter = _open(chosen(files, row.name), base, settings.get("skip-unknown") == "true")
            if row.weight is None or not math.isfinite(row.weight):
                raise WrongInput(f"Give {row.name} a weight")
            merge.add(adapter, row.weight, row.block_weights.strip() or None)
        return merge


def _open(path: Path, base: Path | None, skip_unknown: bool) -> Adapter:
    return Adapter.open(path, base=base, skip_unknown=skip_unknown)
