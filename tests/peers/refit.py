"""CPU and accuracy of a head refit against scikit-learn's MLP refit of the same 445 rows, block by block in turn.

The first block trains hone's base model. Then each block of 445 rows is refitted by both sides, and both answer the next block. The peer is
the one of our reference figures: standardised on its training rows, 32 ReLU, Adam 1e-3, batch 32, 60 epochs, one thread, from scratch.
"""
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

BLOCK, FEATURES, CLASSES = 445, 128, 6
ROOT = pathlib.Path(__file__).resolve().parents[2]


def gas(folder):
    """Classes and the 128 sensor columns of gas.csv, in file order."""
    with open(folder / "gas.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["gas"] for row in rows})
    sensors = [column for column in rows[0] if column.startswith("s")]
    x = np.array([[float(row[column]) for column in sensors] for row in rows], dtype=np.float32)
    return np.array([names.index(row["gas"]) for row in rows]), x


def drawn(blocks=9):
    """Six classes, each a line in 128 columns that drifts from block to block."""
    chance = np.random.default_rng(0)
    centres, drift = chance.normal(size=(2, CLASSES, FEATURES))
    y = chance.integers(CLASSES, size=blocks * BLOCK)
    age = np.arange(len(y))[:, None] / BLOCK
    x = 0.25 * centres[y] + 0.02 * age * drift[y] + chance.normal(size=(len(y), FEATURES))
    return y, x.astype(np.float32)


def peer(x, y, next_x):
    """CPU seconds of one refit, and its answers to the next block."""
    before = time.process_time()
    scaler = StandardScaler().fit(x)
    model = MLPClassifier((32,), solver="adam", learning_rate_init=1e-3, batch_size=32, max_iter=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(x), y)
    seconds = time.process_time() - before
    return seconds, model.predict(scaler.transform(next_x))


def built():
    """The bench, built now; its path."""
    command = ["cargo", "bench", "--workspace", "--bench", "refit", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    made = [json.loads(line) for line in lines if line.startswith("{")]
    return next(one["executable"] for one in made if one.get("executable") and one["target"]["name"] == "refit")


def main():
    data = os.environ.get("HONE_DATA")
    y, x = gas(pathlib.Path(data)) if data else drawn()
    blocks = range(1, len(y) // BLOCK)
    executable = built()
    print(f"{'gas.csv' if data else 'drawn rows'}, scikit-learn {sklearn.__version__}, load {os.getloadavg()}")
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        for truth, row in zip(y, x):
            file.write(",".join([str(truth), *(repr(float(value)) for value in row)]) + "\n")
        file.flush()
        ours = subprocess.Popen([executable, "rows", file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        results = []
        for block in blocks:
            here, there = slice(block * BLOCK, (block + 1) * BLOCK), slice((block + 1) * BLOCK, (block + 2) * BLOCK)
            if len(y[there]) == 0:
                break
            ours.stdin.write(f"{block}\n")
            ours.stdin.flush()
            result = json.loads(ours.stdout.readline())
            seconds, said = peer(x[here], y[here], x[there])
            result |= {"peer_cpu_s": seconds, "peer_right": int((said == y[there]).sum())}
            results.append(result)
        ours.stdin.close()
        ours.wait()
    rows = sum(result["rows"] for result in results)
    for name in ("ridge", "whole", "peer"):
        cost = statistics.median(result[f"{name}_cpu_s"] for result in results)
        ratio = statistics.median(result["peer_cpu_s"] / result[f"{name}_cpu_s"] for result in results)
        right = sum(result[f"{name}_right"] for result in results)
        print(f"{name:6} {cost * 1e3:8.2f} ms CPU, peer / it {ratio:6.1f}, accuracy {right / rows:.4f} of {rows} rows")
    if os.environ.get("VERBOSE"):
        for result in results:
            print(result)


if __name__ == "__main__":
    sys.exit(main())
