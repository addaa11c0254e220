"""The two older commands, `merge_multiple_lycoris.py` and `merge_multiple_lycoris_advanced.py`: their command lines and
messages over this package.

Their users merge in steps, the result with the next model, so a result is stored as exactly as its dtype can: merging
in steps is then the same as merging at once, to rounding.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .adapter import Adapter
from .errors import LycomergeError
from .listing import strategies
from .merging import Merge, Report


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _weights_joined(arguments: Iterable[str]) -> list[str]:
    """The arguments with the weights in one word: argparse would take models after them for weights, and `-1e-2` for an
    option."""
    joined: list[str] = []
    weights: list[str] | None = None
    for argument in arguments:
        if weights is not None and _number(argument) is not None:
            weights.append(argument)
            joined[-1] = "--weights=" + " ".join(weights)
        else:
            weights = [] if argument == "--weights" else None
            joined.append(argument)
    return joined


def numbers(text: str) -> list[float]:
    """Under this name argparse complains."""
    return [float(weight) for weight in text.split()]


def _parser(output: str, advanced: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Merge LyCORIS models by what they do to the weights.")
    parser.add_argument("models", nargs="+", help="model files to merge")
    parser.add_argument("--weights", metavar="W...", type=numbers, help="one per model (default: 1 each)")
    parser.add_argument("--output", "-o", default=output, help="output file (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    dtypes = "float, float16 (default), float32, float64, bfloat or bfloat16"
    parser.add_argument("--dtype", default="float16", help=dtypes)
    parser.add_argument("--metadata", metavar="JSON", help="write merge information to this file")
    parser.add_argument("--verify", action="store_true", help="print the numbers of every merged layer")
    if advanced:
        names = [strategy.name for strategy in strategies()]
        parser.add_argument("--strategy", choices=names, default="smart_fusion", help="default: %(default)s")
        parser.add_argument("--norm-threshold", type=float, default=1.0, help="largest entry after min_max_norm")
    else:
        parser.set_defaults(strategy="weighted_sum", norm_threshold=None)
    return parser


def _compatible(adapters: Sequence[Adapter]) -> bool:
    """Whether all have layers in common with the first and the same base model, as far as they say."""
    versions = {version for a in adapters if (version := a.metadata("ss_base_model_version"))}
    first, *rest = ({layer.name for layer in adapter.layers} for adapter in adapters)
    return len(versions) <= 1 and all(first & names for names in rest)


def _verify(report: Report) -> None:
    for layer in report.data["layers"]:
        print(f"{layer['name']} ({layer['family']}, error {layer['error']:.1e})")
        for tensor in layer["tensors"]:
            numbers = ", ".join(f"{key} {tensor[key]:.4g}" for key in ("mean", "std", "min", "max", "norm"))
            print(f"  {tensor['suffix']}: shape {tensor['shape']}, {numbers}")


def _information(given: argparse.Namespace, weights: list[float], kinds: list[str], report: Report) -> dict[str, Any]:
    merge_info = {
        "strategy": given.strategy,
        "num_models": len(given.models),
        "models": given.models,
        "weights": weights,
        "output_path": given.output,
        "device": given.device,
        "dtype": given.dtype,
    }
    if given.norm_threshold is not None:
        merge_info["norm_threshold"] = given.norm_threshold
    return {"merge_info": merge_info, "model_types": kinds, "report": report.data}


def _run(given: argparse.Namespace) -> str | None:
    """Merges, and returns what is wrong."""
    for model in given.models:
        if not Path(model).is_file():
            return f"Model file not found: {model}"
    weights = given.weights or [1.0] * len(given.models)
    if len(weights) != len(given.models):
        return f"Number of weights ({len(weights)}) must match number of models ({len(given.models)})"
    if given.device not in ("cpu", "auto"):
        print(f"Warning: {given.device} is not available. Using the CPU.", file=sys.stderr)
        given.device = "cpu"
    try:
        adapters = [Adapter.open(model) for model in given.models]
        if not _compatible(adapters):
            print("Warning: Models may not be compatible. Proceed with caution.")
        merge = Merge(
            strategy=given.strategy, dtype=given.dtype, norm_threshold=given.norm_threshold, tolerance=0
        )
        for adapter, weight in zip(adapters, weights, strict=True):
            merge.add(adapter, weight)
        report = merge.run_to(given.output)
        if given.metadata:
            kinds = [adapter.kind for adapter in adapters]
            text = json.dumps(_information(given, weights, kinds, report), indent=2)
            Path(given.metadata).write_text(text + "\n", encoding="utf-8")
    except (LycomergeError, OSError) as error:
        return str(error)
    if given.verify:
        _verify(report)
    print(f"Merged {len(adapters)} models into {given.output}, to within {report.relative_error:.1e}.")
    return None


def _main(output: str, advanced: bool, arguments: Sequence[str] | None) -> int:
    logging.basicConfig(format="Warning: %(message)s")
    try:
        given = _weights_joined(sys.argv[1:] if arguments is None else arguments)
        problem = _run(_parser(output, advanced).parse_intermixed_args(given))
    except KeyboardInterrupt:
        return 130
    if problem:
        print(f"Error: {problem}", file=sys.stderr)
    return 1 if problem else 0


def basic(arguments: Sequence[str] | None = None) -> int:
    """`merge_multiple_lycoris.py`: the weighted sum."""
    return _main("./merged_lycoris.safetensors", False, arguments)


def advanced(arguments: Sequence[str] | None = None) -> int:
    """`merge_multiple_lycoris_advanced.py`: any of the five strategies."""
    return _main("./merged_lycoris_advanced.safetensors", True, arguments)
