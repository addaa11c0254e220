"""What the page says, as HTML. Names and messages come from files and people: everything is escaped."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .. import Comparison, Inspection, LycomergeError, Option, Plan, Report, Strategy, inspect
from .host import WrongInput
from .run import Run

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """`3.7 MB`"""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 99.5 else f"{count:.1f} {_UNITS[unit]}"


def percent(share: float) -> str:
    """`0.76 %`"""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def counted(number: int, noun: str) -> str:
    """`1 layer`, `97 layers`"""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def note(text: str, kind: str = "plain") -> str:
    """A sentence: `plain`, `good`, or `bad`."""
    role = "alert" if kind == "bad" else "status"
    return f'<p class="lm-note lm-{kind}" role="{role}">{escape(text)}</p>'


def failure(error: BaseException) -> str:
    """What went wrong, in the words of whoever noticed."""
    known = isinstance(error, (WrongInput, LycomergeError, OSError))
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return note(text, "bad")


def heading(number: int, title: str, about: str) -> str:
    """A step of the form."""
    return f'<h3 class="lm-step"><b>{number}</b>{escape(title)}</h3><p class="lm-about">{escape(about)}</p>'


def strategy(of: Strategy) -> str:
    """What a strategy does and where it comes from."""
    return f'<p class="lm-about">{escape(of.help[:1].upper() + of.help[1:])}. <i>{escape(of.paper)}</i></p>'


def adapter(name: str, path: Path | None) -> str:
    """A row's adapter: its name and what it is."""
    try:
        if path is None:
            raise WrongInput("not in the folder any more")
        facts, kind = _facts(inspect(path)), ""
    except (WrongInput, LycomergeError, OSError) as error:
        facts, kind = getattr(error, "message", None) or str(error), " lm-bad"
    stem = escape(name.removesuffix(".safetensors"))
    named = f'<b title="{escape(name)}">{stem}</b>'
    return f'<div class="lm-name">{named}<span class="lm-fact{kind}">{escape(facts)}</span></div>'


def _facts(found: Inspection) -> str:
    """`LoKr · 471 kB · rank 8 · sdxl_base_v1-0`"""
    ranks = sorted(found.ranks)
    rank = [] if not ranks else [f"rank {ranks[0]}" if len(ranks) == 1 else f"rank {ranks[0]}–{ranks[-1]}"]
    version = found.metadata.get("ss_base_model_version")
    return " · ".join([found.kind, size(found.byte_len), *rank, *([version] if version else [])])


def progress(run: Run[Any]) -> str:
    """How far a run is."""
    state = run.state
    share = state.done / state.total if state.total else 0
    stage = "stopping" if run.stopping else state.stage
    of = f"{state.done} of {counted(state.total, 'module')}" if state.total else ""
    words = " · ".join(filter(None, [escape(stage), of, f"{run.seconds:.0f} s"]))
    bar = f'<div class="lm-bar"><i style="width:{100 * share:.1f}%"></i></div>'
    return (
        f'<div class="lm-progress" role="progressbar" aria-valuemin="0" aria-valuemax="{state.total}"'
        f' aria-valuenow="{state.done}">{bar}<span>{words}</span></div>'
    )


def _picture(of: Plan | Comparison, alternative: str) -> str:
    """Its picture, light or dark as the page is."""

    def image(dark: bool) -> str:
        data = base64.b64encode(of.picture("svg", dark=dark)).decode()
        shown = "dark" if dark else "light"
        return f'<img class="lm-only-{shown}" alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}">'

    return f'<div class="lm-picture">{image(False)}{image(True)}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="lm-table"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def plan(found: Plan) -> str:
    """What the merge would come to: the picture, and the numbers in a table."""
    points = [
        (curve["format"], curve["dtype"], point["options"], size(point["bytes"]), percent(point["error"]))
        for curve in found.data["curves"]
        for point in curve["points"]
    ]
    sampled, layers = found.data["sampled"], found.data["layers"]
    about = f"From {counted(sampled, 'layer')}" + ("" if sampled == layers else f" of {layers}")
    table = _table(("format", "numbers", "options", "size", "error"), points)
    return (
        f'<section class="lm-card"><h3>Size against error</h3><p class="lm-about">{about}. The error is that of the '
        f"stored file, against the exact merge.</p>{_picture(found, 'Size of the file against its error, by format')}"
        f"<details><summary>All points</summary>{table}</details></section>"
    )


def comparison(found: Comparison) -> str:
    """How the adapters compare, and what follows."""
    data = found.data
    advice = "".join(f"<li>{escape(sentence)}</li>" for sentence in data["advice"])
    advised = f'<ul class="lm-advice">{advice}</ul>' if advice else ""
    return (
        '<section class="lm-card"><h3>How alike the adapters are</h3><p class="lm-about">A plain sum keeps '
        f"{percent(data['kept'])} of what adapters that have nothing in common would add up to.</p>"
        f"{_picture(found, 'Similarity of the adapters, a field for each pair')}{advised}</section>"
    )


def qualities(found: Plan) -> dict[str, str]:
    """The size and error of the named points between both."""
    return {
        each["quality"]: f"{size(each['bytes'])}, error {percent(each['error'])}" for each in found.data["qualities"]
    }


def label(name: str) -> str:
    """`max-size` as a label."""
    words = name.replace("-", " ").replace("_", " ")
    return words[:1].upper() + words[1:]


def choices(option: Option, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """What an option can be set to, with what is known of it. The empty text stands for its default."""
    words = option.choices or ("true", "false")
    unset = [] if option.default in words else [(f"default: {option.default}", "")]

    def told(word: str) -> str:
        about = known.get(word) or ("default" if word == option.default else "")
        return f"{word} ({about})" if about else word

    return unset + [(told(word), "" if word == option.default else word) for word in words]


def certificate(report: Report, name: str, seconds: float) -> str:
    """What was stored, and how exactly."""
    data = report.data
    families = Counter(layer["family"] for layer in data["layers"])
    stored = ", ".join(f"{count} {family}" for family, count in families.most_common())
    worst = sorted(data["layers"], key=lambda layer: -layer["error"])
    rows = (
        (
            layer["name"],
            layer["family"],
            "–" if layer["rank"] is None else str(layer["rank"]),
            f"{layer['norm']:.3g}",
            percent(layer["error"]),
        )
        for layer in worst
    )
    warnings = "".join(note(text) for text in data["warnings"])
    facts = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in (
            ("size", size(data["bytes"])),
            ("error", percent(data["error"])),
            ("strength kept", percent(data["norm_ratio"])),
            ("took", f"{seconds:.1f} s"),
        )
    )
    return (
        f'<section class="lm-card lm-result"><h3>{escape(name)}</h3><dl class="lm-facts">{facts}</dl>'
        f'<p class="lm-about">{counted(len(data["layers"]), "layer")}: {escape(stored)}. Measured on what was stored, '
        f"layer by layer.</p>{warnings}<details><summary>Certificate: every layer, the least exact first</summary>"
        f"{_table(('layer', 'family', 'rank', 'norm', 'error'), rows)}</details></section>"
    )
