"""The two older commands, `merge_multiple_lycoris.py` and `merge_multiple_lycoris_advanced.py`: their command lines and
messages over this package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .adapter import Adapter
from .errors import LycomergeError
from .merging import Merge, Report

STRATEGIES = ["weighted_sum", "weighted_average", "layer_adaptive", "smart_fusion", "min_max_norm"]


def _parser(output: str, advanced: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Merge LyCORIS models by what they do to the weights.")
    parser.add_argument("models", nargs="+", help="model files to merge")
    parser.add_argument("--weights", nargs="+", type=float, help="one per model (default: 1 each)")
    parser.add_argument("--output", "-o", default=output, help="output file (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="float16", help="output numbers (default: %(default)s)")
    parser.add_argument("--metadata", metavar="JSON", help="write merge information to this file")
    parser.add_argument("--verify", action="store_true", help="print the numbers of every merged layer")
    if advanced:
        parser.add_argument("--strategy", choices=STRATEGIES, default="smart_fusion", help="default: %(default)s")
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
        merge = Merge(strategy=given.strategy, dtype=given.dtype, norm_threshold=given.norm_threshold)
        for adapter, weight in zip(adapters, weights, strict=True):
            merge.add(adapter, weight)
        report = merge.run_to(given.output)
        if given.metadata:
            kinds = [adapter.kind for adapter in adapters]
            text = json.dumps(_information(given, weights, kinds, report), indent=2)
            Path(given.metadata).write_text(text + "\n", encoding="utf-8")
    except (LycomergeError, OSError) as error:
        return str(error)
    for warning in report.data["warnings"]:
        print(f"Warning: {warning}", file=sys.stderr)
    if given.verify:
        _verify(report)
    print(f"Merged {len(adapters)} models into {given.output}, to within {report.relative_error:.1e}.")
    return None


def _main(output: str, advanced: bool, arguments: Sequence[str] | None) -> int:
    try:
        problem = _run(_parser(output, advanced).parse_args(arguments))
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
