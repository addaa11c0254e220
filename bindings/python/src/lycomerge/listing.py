"""The strategies and options of a merge, and the families of adapters, for hosts that build a form from them."""

from __future__ import annotations

from dataclasses import dataclass

from ._library import library, text


@dataclass(frozen=True)
class Parameter:
    """What a strategy can be told: an option of `Merge` and `merge` while the strategy is the one that has it. `takes`
    says in words which values."""

    name: str
    takes: str
    default: str
    help: str


@dataclass(frozen=True)
class Strategy:
    """A way to combine deltas: what the option `strategy` takes, the name for people, what it does, where it comes
    from, and what it can be told."""

    name: str
    title: str
    help: str
    paper: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Option:
    """An option of a merge. `value` is a word for what it takes, such as `SIZE`, or None for a switch; `default` says
    in words what holds while it isn't set. `choices` are the words that it takes, none where it takes numbers or
    names."""

    name: str
    value: str | None
    default: str
    help: str
    choices: tuple[str, ...]


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
            str(text(library.lyco_strategy_paper(index))),
            _parameters(index),
        )
        for index in range(library.lyco_strategy_count())
    ]


def _parameters(strategy: int) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(
            str(text(library.lyco_strategy_parameter_name(strategy, index))),
            str(text(library.lyco_strategy_parameter_takes(strategy, index))),
            str(text(library.lyco_strategy_parameter_default(strategy, index))),
            str(text(library.lyco_strategy_parameter_help(strategy, index))),
        )
        for index in range(library.lyco_strategy_parameter_count(strategy))
    )


def options() -> list[Option]:
    """Every option that `Merge` and `merge` take."""
    return [
        Option(
            str(text(library.lyco_option_name(index))),
            text(library.lyco_option_value(index)),
            str(text(library.lyco_option_default(index))),
            str(text(library.lyco_option_help(index))),
            tuple(
                str(text(library.lyco_option_choice(index, number)))
                for number in range(library.lyco_option_choice_count(index))
            ),
        )
        for index in range(library.lyco_option_count())
    ]
