"""The page itself, of gradio's parts. It holds for gradio 3, with which A1111's WebUI comes, and all later ones: what a
part shows is changed by `gradio.update`, rows that may be needed are there from the beginning, hidden, and what is
chosen from a menu is its label, since old menus show nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import chain
from typing import Any

import gradio

from .. import Option, Parameter
from ..progress import Listener
from . import show
from .host import Host, result_path
from .request import FIRST, Request, Row, all_strategies, parameters, rows_for, storing, words_of
from .run import Run, Stopped

#: How many adapters the page takes; the library takes any number.
MOST = 16

#: The menu's word for no base model. No file is called so.
NO_BASE = "none"

#: How often, in seconds, the page hears how far a run is.
_PULSE = 0.2

#: The runs that go on, by the number that their page knows them by, so that its stop button finds them.
_running: dict[int, Run[Any]] = {}

#: What a handler gives back: new values of parts.
Updates = dict[Any, Any]


class _Form:
    """The parts that say what to merge and how."""

    def __init__(self, host: Host) -> None:
        self.host = host
        gradio.HTML(
            show.heading(
                1,
                "Adapters",
                "Any families, in any mix. A weight is any number; 1 is full strength, below 0 takes away.",
            )
        )
        with gradio.Row(elem_classes=["lm-line"]):
            self.adapters = gradio.Dropdown(
                list(host.adapters()), value=[], multiselect=True, max_choices=MOST, label="Adapters", scale=8,
                min_width=240, elem_id="lm-adapters",
            )  # fmt: skip
            self.refresh = gradio.Button("Refresh", size="sm", scale=1, min_width=80, elem_id="lm-refresh")
        self.rows = [self._row(index) for index in range(MOST)]
        self.names = gradio.State([])
        with gradio.Accordion("Base model", open=False):
            self.base = gradio.Dropdown(
                self._bases(), value=NO_BASE, label="Checkpoint that the adapters were trained on", elem_id="lm-base",
                info="Only DoRA, OFT, BOFT, GLoRA, (IA)³ and T-LoRA need it",
            )  # fmt: skip
        gradio.HTML(
            show.heading(2, "How they become one", "The plain sum is what hosts do that load several adapters at once.")
        )
        plain = next(iter(all_strategies().values()))
        self.strategy = gradio.Dropdown(
            list(all_strategies()), value=plain.title, label="Strategy", elem_id="lm-strategy",
        )  # fmt: skip
        self.about = gradio.HTML(show.strategy(plain))
        self.parameters = {
            parameter: self._parameter(parameter, parameter in plain.parameters) for parameter in parameters()
        }
        gradio.HTML(show.heading(3, "What is stored", "“Compare and plan” says beforehand what a choice comes to."))
        first, rest = storing()[: len(FIRST)], storing()[len(FIRST) :]
        self.options = {first[0]: self._option(first[0]), **self._pairs(first[1:])}
        with gradio.Accordion("More options", open=False):
            self.options |= self._pairs(rest)
        self.refresh.click(self._refreshed, None, [self.adapters, self.base], queue=False)
        self.adapters.change(
            self._chosen, [self.adapters, self.names, *self._cells()], [self.names, *chain(*self.rows)],
            queue=False, show_progress="hidden",
        )  # fmt: skip
        self.strategy.change(
            self._strategy_chosen, [self.strategy], [self.about, *self.parameters.values()],
            queue=False, show_progress="hidden",
        )  # fmt: skip

    @staticmethod
    def _row(index: int) -> tuple[Any, Any, Any, Any]:
        with gradio.Row(visible=False, elem_classes=["lm-row"]) as row:
            with gradio.Column(scale=4, min_width=150):
                name = gradio.HTML("")
            weight = gradio.Number(1, label="Weight", step=0.05, scale=1, min_width=90, elem_id=f"lm-weight-{index}")
            blocks = gradio.Textbox(
                "", label="Block weights", placeholder="all 1; such as OUT00-OUT05=0.5 te=0", scale=4, min_width=150,
                max_lines=1, elem_id=f"lm-blocks-{index}",
            )  # fmt: skip
        return row, name, weight, blocks

    def _cells(self) -> list[Any]:
        """Weights and block weights, row by row."""
        return [part for row in self.rows for part in row[2:]]

    def _bases(self) -> list[str]:
        return [NO_BASE, *self.host.checkpoints()]

    @staticmethod
    def _parameter(parameter: Parameter, visible: bool) -> Any:
        about = f"{parameter.help} ({parameter.takes})"
        if words := words_of(parameter):
            return gradio.Dropdown(
                words, value=parameter.default, label=show.label(parameter.name), info=about, visible=visible
            )
        return gradio.Textbox(
            parameter.default, label=show.label(parameter.name), info=about, visible=visible, max_lines=1
        )

    def _pairs(self, options: Sequence[Option]) -> dict[Option, Any]:
        made: dict[Option, Any] = {}
        for start in range(0, len(options), 2):
            with gradio.Row(elem_classes=["lm-line"]):
                made |= {option: self._option(option) for option in options[start : start + 2]}
        return made

    @staticmethod
    def _option(option: Option) -> Any:
        name = option.name
        shared = {"label": show.label(name), "info": option.help, "elem_id": f"lm-option-{name}", "min_width": 220}
        menu = show.choices(option, {})
        if name == "quality":
            return gradio.Radio(menu, value="", **shared)
        if option.choices or option.value is None:
            default = next(label for label, value in menu if not value)
            return gradio.Dropdown([label for label, _ in menu], value=default, **shared)
        return gradio.Textbox("", placeholder=option.default, max_lines=1, **shared)

    @property
    def inputs(self) -> list[Any]:
        """The parts whose values `request` takes."""
        return [
            self.adapters,
            self.names,
            *self._cells(),
            self.base,
            self.strategy,
            *self.parameters.values(),
            *self.options.values(),
        ]

    def request(self, values: Sequence[Any]) -> Request:
        """What the values of `inputs` ask for."""
        chosen, names, *texts = values
        cells, texts = texts[: 2 * MOST], texts[2 * MOST :]
        base, title, *texts = texts
        items: list[Parameter | Option] = [*self.parameters, *self.options]
        given = {item: self._meant(item, str(text or "")) for item, text in zip(items, texts, strict=True)}
        rows = rows_for(chosen, self._rows(names, cells))
        return Request(rows, None if base in (None, NO_BASE) else base, all_strategies()[title], given)

    @staticmethod
    def _meant(item: Parameter | Option, text: str) -> str:
        """The value that a menu's label stands for; other texts are values."""
        return dict(show.choices(item, {})).get(text, text) if isinstance(item, Option) else text

    @staticmethod
    def _rows(names: Sequence[str], cells: Sequence[Any]) -> list[Row]:
        return [Row(name, weight, blocks or "") for name, weight, blocks in zip(names, cells[::2], cells[1::2])]

    def _refreshed(self) -> list[Any]:
        return [gradio.update(choices=list(self.host.adapters())), gradio.update(choices=self._bases())]

    def _chosen(self, names: Sequence[str], before: Sequence[str], *cells: Any) -> list[Any]:
        files = self.host.adapters()
        rows = rows_for(names, self._rows(before, cells))
        updates: list[Any] = [list(names)]
        for index in range(MOST):
            row = rows[index] if index < len(rows) else Row("")
            shown = show.adapter(row.name, files.get(row.name)) if row.name else ""
            updates += [gradio.update(visible=bool(row.name)), shown, row.weight, row.block_weights]
        return updates

    def _strategy_chosen(self, title: str) -> list[Any]:
        strategy = all_strategies()[title]
        return [show.strategy(strategy), *(gradio.update(visible=p in strategy.parameters) for p in self.parameters)]


class _Results:
    """The parts that start runs and show what came of them."""

    def __init__(self, form: _Form) -> None:
        self.form = form
        self.look = gradio.Button("Compare and plan", elem_id="lm-look")
        with gradio.Row(elem_classes=["lm-line"]):
            self.name = gradio.Textbox(
                "merged", label="Name of the result", max_lines=1, scale=3, min_width=160, elem_id="lm-name"
            )
            self.replace = gradio.Checkbox(
                False, label="Replace it if it exists", scale=2, min_width=150, elem_id="lm-replace"
            )
        with gradio.Row(elem_classes=["lm-line"]):
            self.merge = gradio.Button("Merge", variant="primary", scale=3, min_width=120, elem_id="lm-merge")
            self.stop = gradio.Button(
                "Stop", variant="stop", interactive=False, scale=1, min_width=80, elem_id="lm-stop"
            )
        self.status = gradio.HTML(
            show.note("Choose adapters, then compare them, or merge right away."), elem_id="lm-status"
        )
        self.result = gradio.HTML("", elem_id="lm-result")
        self.file = gradio.File(label="Download", visible=False, interactive=False, elem_id="lm-download")
        self.pictures = gradio.HTML("", elem_id="lm-pictures")
        self.run = gradio.State(0)
        both = [self.run, self.look, self.merge, self.stop, self.status]
        self.look.click(
            self._looked, form.inputs, [*both, self.pictures, *self._quality().values()], show_progress="hidden"
        )
        self.merge.click(
            self._merged, [self.name, self.replace, *form.inputs], [*both, self.result, self.file, form.adapters],
            show_progress="hidden",
        )  # fmt: skip
        self.stop.click(_stop, [self.run], None, queue=False, show_progress="hidden")

    def _quality(self) -> dict[Option, Any]:
        return {option: part for option, part in self.form.options.items() if option.name == "quality"}

    def _looked(self, *values: Any) -> Iterator[Updates]:
        def work(heard: Listener) -> Updates:
            request = self.form.request(values)
            merge = request.merge(self.form.host)
            plan = merge.plan(heard)
            shown = show.plan(plan) + (show.comparison(merge.compare(heard)) if len(request.rows) > 1 else "")
            known = show.qualities(plan)
            menus = {part: gradio.update(choices=show.choices(of, known)) for of, part in self._quality().items()}
            return {self.pictures: f'<div class="lm-pictures">{shown}</div>', **menus}

        yield from self._watched(Run(work))

    def _merged(self, typed: str, replace: bool, *values: Any) -> Iterator[Updates]:
        def work(heard: Listener) -> Updates:
            begun = time.monotonic()
            path = result_path(self.form.host.output_folder(), typed, replace)
            report = self.form.request(values).merge(self.form.host).run_to(path, heard)
            self.form.host.saved()
            return {
                self.result: show.certificate(report, path.name, time.monotonic() - begun),
                self.file: gradio.update(value=str(path), visible=True),
                self.form.adapters: gradio.update(choices=list(self.form.host.adapters())),
            }

        yield {self.result: "", self.file: gradio.update(value=None, visible=False)}
        yield from self._watched(Run(work))

    def _watched(self, run: Run[Updates]) -> Iterator[Updates]:
        """Shows how far a run is until it ends, and then what it came to."""
        number = id(run)
        _running[number] = run
        busy = gradio.update(interactive=False)
        buttons = {self.run: number, self.look: busy, self.merge: busy, self.stop: gradio.update(interactive=True)}
        try:
            while not run.wait(_PULSE):
                yield {**buttons, self.status: show.progress(run)}
        finally:
            del _running[number]
        try:
            yield {**run.result(), **self._ended("")}
        except Stopped:
            yield self._ended(show.note("Stopped. Nothing was written."))
        except Exception as error:
            yield self._ended(show.failure(error))

    def _ended(self, status: str) -> Updates:
        ready, busy = gradio.update(interactive=True), gradio.update(interactive=False)
        return {self.run: 0, self.look: ready, self.merge: ready, self.stop: busy, self.status: status}


def _stop(number: int) -> None:
    if run := _running.get(number):
        run.stop()


def page(host: Host) -> None:
    """Puts the page into the `gradio.Blocks` that are being built."""
    style = (files(__package__) / "style.css").read_text(encoding="utf-8")
    with gradio.Column(elem_classes=["lm"]):
        gradio.HTML(
            f"<style>{style}</style>"
            '<div class="lm-head"><h2>lycomerge</h2><p>Merges adapters by what they do to the weights, and says how '
            "exact the result is.</p></div>"
        )
        with gradio.Row(elem_classes=["lm-columns"]):
            with gradio.Column(scale=6, min_width=320):
                form = _Form(host)
            with gradio.Column(scale=5, min_width=320):
                _Results(form)
