"""The strategies and options of a merge, and the families of adapters, for hosts that build a form from them."""

from __future__ import annotations

from dataclasses import dataclass

from ._library import library, text


@dataclass(frozen=True)
class Strategy:
    """A way to combine deltas: what the option `strategy` takes, the name for people, and what it does."""

    name: str
    title: str
    help: str


@dataclass(frozen=True)
class Option:
    """An option of a merge. `value` is a word for what it takes, such as `SIZE`, or None for a switch; `default` says
    in words what holds while it isn't set."""

    name: str
    value: str | None
    default: str
    help: str


@dataclass(frozen=True)
class Family:
    """A way to store deltas: what `Layer.family` says, and what it is."""

    name: str
    help: str


def families() -> list[Family]:
    """Every family that is merged."""
    return [
        Family(str(text(library.lyco_family_name(index))), str(text(library.lyco_family_help(index))))
        for index in range(library.lyco_family_count())
    ]


def strategies() -> list[Strategy]:
    """Every strategy."""
    return [
        Strategy(
            str(text(library.lyco_strategy_name(index))),
            str(text(library.lyco_strategy_title(index))),
            str(text(library.lyco_strategy_help(index))),
        )
        for index in range(library.lyco_strategy_count())
    ]


def options() -> list[Option]:
    """Every option that `Merge` and `merge` take."""
    return [
        Option(
            str(text(library.lyco_option_name(index))),
            text(library.lyco_option_value(index)),
            str(text(library.lyco_option_default(index))),
            str(text(library.lyco_option_help(index))),
        )
        for index in range(library.lyco_option_count())
    ]
