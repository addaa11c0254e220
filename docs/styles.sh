#!/bin/sh
# Draws docs/styles.png: what a model makes with one adapter, with another, and with both, merged and added key by key.
# Needs torch, diffusers, numpy, Pillow and safetensors for Python; about a minute.
set -eu
cd "$(dirname "$0")/.."
real=tests/data/real
italic=$real/adapters/italic.lokr4.safetensors dots=$real/adapters/dots.lokr4.safetensors
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

lycomerge() {
    cargo run --release --quiet -- "$@"
}
bake() {
    lycomerge bake $real/base.safetensors "$2" -o "$made/$1.safetensors" --quiet
}
bake italic $italic
bake dots $dots
lycomerge merge $italic $dots -o "$made/merge.safetensors" --quiet
bake merged "$made/merge.safetensors"
lycomerge merge $italic $dots --space factor -o "$made/keys.safetensors" --quiet
bake added "$made/keys.safetensors"

python3 $real/sample.py docs/styles.png "the model=$real/base.safetensors" "italic=$made/italic.safetensors" \
    "dots=$made/dots.safetensors" "both, merged by lycomerge=$made/merged.safetensors" \
    "both, added key by key=$made/added.safetensors"
