#!/usr/bin/env python3
"""The merge that everyone runs: adapters added key by key, factor by factor, alpha by alpha.

    keywise.py OUT IN...

The result is wrong on purpose, because a sum of factors is not a sum of effects. It is the
baseline for speed and for error. A key that only some files have is summed over those.
"""

import sys

from safetensors.torch import load_file, save_file


def main() -> None:
    output, *inputs = sys.argv[1:]
    total = {}
    for path in inputs:
        for key, tensor in load_file(path).items():
            total[key] = total[key] + tensor if key in total else tensor
    save_file(total, output)


if __name__ == "__main__":
    main()
