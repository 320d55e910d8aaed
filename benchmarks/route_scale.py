"""Measure how long it takes to choose a batch of 1,000 among a million scored comparisons, and in how much memory.

    python benchmarks/route_scale.py

The pool is simulated: inputs of a head with 101 numbers whose components become smaller as those of real texts do, four
comparisons of each prompt, six pairs of policies, and margins and uncertainties of a head that has learnt from 500
simulated labels. Inputs lie in a file of 800 MB, as features do; margins and the rest are in memory. Each rule orders
the pool in a process of its own (`routing.batches.order_for_raters`); `seconds` is that of the slowest rule and
`peak_mb` the largest resident memory of any, with Python and its libraries (`import_mb`), which take time to start
that is not counted. Of rules that read inputs, `cut` says whether a comparison that was not looked at could have been
chosen (1), which is known by its gain alone.

Left out: reading comparisons and scores from a store and writing the decisions there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import write_result

from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import compute_laplace_covariance
from rlhf_hitl.routing.acquisition_names import RULES
from rlhf_hitl.routing.batches import CompletionInputs, Pool, order_for_raters

WIDTH, CHUNK = 101, 50_000


def generate_pool(folder: Path, n: int, seed: int) -> None:
    """Write the simulated pool as .npy files."""
    rng = np.random.default_rng(seed)
    sizes = np.r_[1 / np.sqrt(np.arange(1, WIDTH)), 1.0].astype(np.float32)
    weights = rng.normal(size=WIDTH)
    labelled = rng.standard_normal((500, WIDTH)) * sizes * np.sqrt(2)
    covariance = compute_laplace_covariance([(labelled, np.ones(500))], weights)
    inputs = np.lib.format.open_memmap(folder / "inputs.npy", "w+", np.float32, (2 * n, WIDTH))
    head, found = Head(weights, covariance, (1.0, 1.0)), []
    for start in range(0, n, CHUNK):
        rows = rng.standard_normal((2 * min(CHUNK, n - start), WIDTH), np.float32) * sizes
        inputs[2 * start : 2 * start + len(rows)] = rows
        differences = rows[::2] - rows[1::2]
        margins = differences @ weights
        variance = np.einsum("nd,nd->n", differences @ covariance.astype(np.float32), differences)
        found.append(np.stack([margins, np.sqrt(variance)]))
    inputs.flush()
    np.save(folder / "scores.npy", np.concatenate(found, axis=1))
    np.save(folder / "groups.npy", np.stack([np.arange(n) // 4, rng.integers(6, size=n)]))
    np.savez(folder / "head.npz", weights=head.weights, covariance=head.covariance)


def order_pool(folder: Path, rule: str, size: int) -> dict[str, float]:
    """Order the pool of a folder, and return the seconds, the peak of the memory and what was cut."""
    scores, groups, saved = np.load(folder / "scores.npy"), np.load(folder / "groups.npy"), np.load(folder / "head.npz")
    inputs = np.load(folder / "inputs.npy", mmap_mode="r")

    def load(places: np.ndarray) -> CompletionInputs:
        """The completions of a prompt side by side: those of its comparisons follow each other."""
        order = np.argsort(places)
        rows = (2 * places[order][:, None] + [0, 1]).ravel()
        starts = 2 * np.flatnonzero(np.r_[True, np.diff(places[order] // 4) != 0])
        rank = np.argsort(order)
        return CompletionInputs(np.asarray(inputs[rows]), starts, np.stack([2 * rank, 2 * rank + 1], axis=1))

    head = Head(saved["weights"], saved["covariance"], (1.0, 1.0))
    pool = Pool(scores[0], scores[1], groups[0], groups[1], head, load)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, processor = time.perf_counter(), time.process_time()
    order = order_for_raters(pool, rule, size, np.random.default_rng(0))  # pyright: ignore[reportArgumentType]
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    assert len(np.unique(order.places)) == len(pool), "every comparison once"
    batch = order.places[:size]
    return {
        "seconds": seconds,
        "processor_s": processor,
        "import_mb": before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cut": float(order.is_cut),
        "candidates": order.candidates,
        "prompts": len(np.unique(pool.prompts[batch])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="Of a pool that was generated: order it and print the figures.")
    parser.add_argument("--rule", choices=RULES)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(order_pool(Path(args.folder), args.rule, args.batch)))
        return
    n, batch = (5000, 50) if args.quick else (args.comparisons, args.batch)
    figures: dict[str, float | int | None] = {"comparisons": n, "batch": batch}
    with tempfile.TemporaryDirectory() as folder:
        generate_pool(Path(folder), n, args.seed)
        for rule in ("random", "d-optimal", "double-reverse-thompson") if args.quick else RULES:
            command = [sys.executable, __file__, "--folder", folder, "--rule", rule, "--batch", str(batch)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(rule, found, file=sys.stderr)
            figures |= {f"{rule}.{name}": value for name, value in found.items()}
    for name in ("seconds", "peak_mb"):
        figures[name] = max(float(v or 0) for k, v in figures.items() if k.endswith(f".{name}"))
    notes = "Simulated pool. Seconds and memory of the rule that takes most; one process a rule, one after the other."
    write_result("route_scale", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
