#!/usr/bin/env python3
"""Writes what the spectral strategies make of small models, computed on dense float64 matrices.

    make_strategies_spectral.py

Needs numpy and safetensors. No library has these methods for adapters as they are meant here: published code takes null
directions of low-rank matrices along. So this is the papers' formulas on whole matrices, written for clarity and apart
from the program's own way, which never forms them. Written to strategies/spectral.safetensors:

CASE.I.left, CASE.I.right   model I as a product; CASE.I.full as a dense matrix
CASE.KEY                    the merge, KEY as in the metadata `methods`: [key, strategy, parameters]
metadata `cases`            {case: weights}
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

NONE = 1e-9


def svd(matrix):
    u, sigma, vt = np.linalg.svd(matrix, full_matrices=False)
    rank = int((sigma > NONE * sigma[0]).sum())
    return u[:, :rank], sigma[:rank], vt[:rank].T


def polar(columns):
    u, _, v = svd(columns)
    return u @ v.T


def tsv(models, lam=1.0):
    most = max(1, min(models[0].shape) // len(models))
    parts = [svd(m) for m in models]
    u = np.hstack([u[:, :most] for u, _, _ in parts])
    s = np.concatenate([s[:most] for _, s, _ in parts])
    v = np.hstack([v[:, :most] for _, _, v in parts])
    return lam * polar(u) @ np.diag(s) @ polar(v).T


def iso_c(models, lam=1.0):
    u, s, v = svd(sum(models))
    return lam * s.mean() * u @ v.T


def iso_cts(models, common=0.8, lam=1.0):
    u, s, v = svd(sum(models))
    rank, count = len(s), len(models)
    own = min(round((rank - int(rank * common)) / count), rank // count)
    kept = rank - own * count
    us, ss, vs = [u[:, :kept]], [s[:kept]], [v[:, :kept]]
    for m in models:
        residual = m - u[:, :kept] @ u[:, :kept].T @ m
        if own and np.linalg.norm(residual) > NONE * np.linalg.norm(m):
            a, b, c = svd(residual)
            us.append(a[:, :own])
            ss.append(b[:own])
            vs.append(c[:, :own])
    return lam * np.concatenate(ss).mean() * polar(np.hstack(us)) @ polar(np.hstack(vs)).T


def svc(models, alpha=None):
    count = len(models)
    alpha = alpha or 1 / count
    u, s, v = svd(sum(models))
    scale = np.zeros(len(s))
    for r in range(len(s)):
        a = u[:, r] @ sum(models)
        counted = 0.0
        for m in models:
            own = u[:, r] @ m
            has = np.linalg.norm(own) > NONE * np.linalg.norm(m)
            counted += max(alpha, a @ own / (own @ own) if has else 1.0)
        scale[r] = count / counted
    return u @ np.diag(scale * s) @ v.T


def pico(models):
    count = len(models)
    stacked = []
    for m in models:
        u, s, _ = svd(m)
        stacked.append(u * s)
    u, s, _ = np.linalg.svd(np.hstack(stacked), full_matrices=False)
    shrunk = 1 / (1 + (count - 1) * s**2 / (s**2).sum())
    calibrated = [m + u @ np.diag(shrunk - 1) @ u.T @ m for m in models]
    merged = sum(calibrated) / count
    return merged / np.linalg.norm(merged) * np.mean([np.linalg.norm(m) for m in models])


def wudi(models):
    # The first-order condition M C = D as least squares, by the pseudo-inverse of C's root.
    below = np.vstack([m / np.linalg.norm(m) for m in models])
    u, s, v = svd(below)
    d = sum(m @ m.T @ m / np.linalg.norm(m) ** 2 for m in models)
    return d @ v @ np.diag(s**-2) @ v.T


def subspace_boost(models, beta=0.01):
    u, s, v = svd(sum(models))
    reached = np.cumsum(s) >= beta * s.sum()
    return u @ np.diag(np.maximum(s, s[np.argmax(reached)])) @ v.T


def ctm(models, rank=0, beta=0.5):
    norms = np.array([np.linalg.norm(m) for m in models])
    rank = rank or max(len(svd(m)[1]) for m in models)
    x = np.stack([m / n * (beta * n + (1 - beta) * norms.mean()) for m, n in zip(models, norms)])
    lead = lambda unfolded: np.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]  # noqa: E731
    u, v = lead(np.hstack(list(x))), lead(np.hstack([m.T for m in x]))
    lost = np.inf
    for _ in range(100):
        u = lead(np.hstack([m @ v for m in x]))
        v = lead(np.hstack([m.T @ u for m in x]))
        kept = sum(np.linalg.norm(u.T @ m @ v) ** 2 for m in x)
        now = np.sqrt(max(0.0, 1 - kept / np.linalg.norm(x) ** 2))
        if abs(lost - now) < 1e-6:
            break
        lost = now
    return u @ sum(u.T @ m @ v for m in models) @ v.T


METHODS = [
    ("tsv", tsv, "tsv", {}),
    ("tsv_weak", lambda m: tsv(m, 0.7), "tsv", {"lambda": "0.7"}),
    ("iso_c", iso_c, "iso_c", {}),
    ("iso_cts", iso_cts, "iso_cts", {}),
    ("iso_cts_half", lambda m: iso_cts(m, 0.5), "iso_cts", {"common_space_fraction": "0.5"}),
    ("svc", svc, "svc", {}),
    ("svc_lower", lambda m: svc(m, 1.0), "svc", {"alpha": "1"}),
    ("pico", pico, "pico", {}),
    ("wudi", wudi, "wudi", {}),
    ("boost", subspace_boost, "subspace_boost", {}),
    ("boost_third", lambda m: subspace_boost(m, 0.3), "subspace_boost", {"beta": "0.3"}),
    ("ctm", ctm, "ctm", {}),
    ("ctm_five", lambda m: ctm(m, 5, 0.2), "ctm", {"subspace_rank": "5", "beta": "0.2"}),
]


def cases(random):
    def low(rows, cols, rank):
        return random.standard_normal((rows, rank)), random.standard_normal((rank, cols))

    loras = [low(40, 30, rank) for rank in (4, 3, 5)]
    common = random.standard_normal((20, 3))
    crowded = [(np.hstack([common, 0.3 * random.standard_normal((20, 2))]), random.standard_normal((5, 24))) for _ in range(4)]
    dense = [random.standard_normal((12, 9)) for _ in range(3)]
    many = [random.standard_normal((6, 10)) for _ in range(8)]
    return {
        "loras": (loras, [1.0, 0.5, 2.0]),
        "negative": (loras, [1.0, -0.7, 0.4]),
        "crowded": (crowded, [1.0, 1.0, 0.6, 1.0]),
        "dense": (dense, [1.0, 1.0, 0.5]),
        "many": (many, [0.3, 1.0, 1.0, 0.5, 1.0, -1.0, 1.0, 1.0]),
        "twice": ([loras[0], loras[0]], [1.0, 0.5]),
    }


def main():
    tensors, weights = {}, {}
    for case, (models, given) in cases(np.random.default_rng(8)).items():
        weights[case] = given
        for i, model in enumerate(models):
            if isinstance(model, tuple):
                tensors[f"{case}.{i}.left"], tensors[f"{case}.{i}.right"] = model
            else:
                tensors[f"{case}.{i}.full"] = model
        weighed = [w * (m[0] @ m[1] if isinstance(m, tuple) else m) for w, m in zip(given, models)]
        for key, method, _, _ in METHODS:
            tensors[f"{case}.{key}"] = method(weighed)
    metadata = {
        "cases": json.dumps(weights),
        "methods": json.dumps([[key, name, settings] for key, _, name, settings in METHODS]),
    }
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, Path(__file__).parent / "strategies" / "spectral.safetensors", metadata)


main()
