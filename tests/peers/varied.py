"""Writes ../vectors/varied.json: river's alarms and warnings at varied parameters, on short streams of many kinds.

`python varied.py > ../vectors/varied.json` gives the same bytes on every machine with the same river.
`python varied.py check path/to/hone 200 [seed]` runs as many new cases through `hone drift scan` and lists what differs.
"""

import json
import random
import subprocess
import sys
import tempfile

from river import __version__, drift
from river.drift import binary

CASES_EACH = 10


def real(chance, length):
    """Values that stand still, step, climb, linger, jump or are whole numbers, at several scales."""
    kind = chance.choice(["still", "steps", "ramp", "lingering", "constant", "heavy", "whole"])
    mean, deviation = chance.choice([0, 0, 1000, -5]), chance.choice([1, 1, 0.1, 10, 1000])
    level, value, values = 0.0, 0.0, []
    for row in range(length):
        if kind == "steps" and chance.random() < 4 / length:
            level += chance.choice([-3, -1, -0.5, 0.5, 1, 3])
        if kind == "ramp":
            level = 3 * row / length
        if kind == "lingering":
            value = 0.8 * value + chance.gauss(0, 0.6)
        elif kind == "constant":
            value = float(chance.random() > 0.98)
        elif kind == "heavy":
            value = chance.paretovariate(1.5) * chance.choice([-1, 1])
        elif kind == "whole":
            value = chance.randrange(5)
        else:
            value = chance.gauss(0, 1)
        values.append(round(mean + deviation * (value + level), 2))
    return values


def errors(chance, length):
    """0 and 1 at a rate that changes some five times."""
    rate, values = chance.choice([0, 0.01, 0.05, 0.2, 0.5, 0.9, 1]), []
    for _ in range(length):
        if chance.random() < 5 / length:
            rate = chance.random()
        values.append(int(chance.random() < rate))
    return values


def shares(chance, length):
    """Numbers from 0 to 1."""
    shape, values = chance.choice([0.5, 1, 5]), []
    for _ in range(length):
        if chance.random() < 5 / length:
            shape = chance.choice([0.2, 0.5, 1, 3])
        values.append(round(chance.betavariate(shape, 2), 2))
    return values


def adwin(chance):
    return drift.ADWIN, {
        "delta": chance.choice([0.002, 0.0001, 0.05, 0.3, 0.9]),
        "clock": chance.choice([1, 2, 7, 32]),
        "max_buckets": chance.choice([2, 3, 5, 8, 20]),
        "min_window_length": chance.choice([1, 2, 5, 20]),
        "grace_period": chance.choice([0, 1, 10, 50]),
    }, chance.choice([real, errors])


def page_hinkley(chance):
    return drift.PageHinkley, {
        "min_instances": chance.choice([1, 5, 30, 200]),
        "delta": chance.choice([0, 0.005, 0.05, 1]),
        "threshold": chance.choice([1, 5, 20, 50, 300]),
        "alpha": chance.choice([0.9999, 0.99, 0.9, 1.0]),
        "mode": chance.choice(["up", "down", "both"]),
    }, chance.choice([real, errors])


def ddm(chance):
    return binary.DDM, {
        "warm_start": chance.choice([1, 5, 30, 100]),
        "warning_threshold": chance.choice([0.5, 1, 2]),
        "drift_threshold": chance.choice([2, 3, 5]),
    }, errors


def eddm(chance):
    return binary.EDDM, {
        "warm_start": chance.choice([1, 5, 30, 100]),
        "alpha": chance.choice([0.95, 0.9, 0.99]),
        "beta": chance.choice([0.9, 0.8, 0.5]),
    }, errors


def hddm_a(chance):
    return binary.HDDM_A if hasattr(binary, "HDDM_A") else binary.HDDMA, {
        "drift_confidence": chance.choice([0.001, 0.01, 1e-6]),
        "warning_confidence": chance.choice([0.005, 0.05]),
        "two_sided_test": chance.random() < 0.5,
    }, chance.choice([errors, shares])


def hddm_w(chance):
    return binary.HDDM_W if hasattr(binary, "HDDM_W") else binary.HDDMW, {
        "drift_confidence": chance.choice([0.001, 0.01, 1e-6]),
        "warning_confidence": chance.choice([0.005, 0.05]),
        "lambda_val": chance.choice([0.05, 0.01, 0.3]),
        "two_sided_test": chance.random() < 0.5,
    }, chance.choice([errors, shares])


def fhddm(chance):
    size = chance.choice([10, 25, 100, 200])
    return binary.FHDDM, {
        "sliding_window_size": size,
        "confidence_level": chance.choice([1e-6, 0.001, 0.1]),
        "short_window_size": chance.choice([None, None, 5, size // 2]),
    }, chance.choice([errors, shares, real])


KINDS = {make.__name__: make for make in [adwin, page_hinkley, ddm, eddm, hddm_a, hddm_w, fhddm]}


def case(name, chance, length):
    """One stream with what river says about it; a row with an alarm is no warning."""
    detector, parameters, stream = KINDS[name](chance)
    parameters = {key: value for key, value in parameters.items() if value is not None}
    values, detector = stream(chance, length), detector(**parameters)
    alarms, warnings = [], []
    for row, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            alarms.append(row)
        elif getattr(detector, "warning_detected", False):
            warnings.append(row)
    written = ",".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in parameters.items())
    return {"detector": f"{name}:{written}", "values": values, "drift": alarms, "warning": warnings}


def check(hone, cases, seed):
    chance, differ, alarms = random.Random(seed), 0, 0
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        for number in range(cases):
            expected = case(list(KINDS)[number % len(KINDS)], chance, chance.choice([300, 1000, 3000, 6000]))
            file.seek(0)
            file.truncate()
            file.write("".join(f"{value}\n" for value in expected["values"]))
            file.flush()
            scan = [hone, "drift", "scan", "--json", "--detector", expected["detector"], "--input", file.name]
            found = subprocess.run(scan, capture_output=True, text=True)
            answer = json.loads(found.stdout) if found.returncode == 0 else {}
            alarms += len(expected["drift"])
            if (answer.get("drift"), answer.get("warning")) != (expected["drift"], expected["warning"]):
                differ += 1
                print(number, expected["detector"], found.stderr.strip() or answer.get("drift"), expected["drift"])
    print(f"{cases} cases with {alarms} alarms, {differ} differ, river {__version__}")
    sys.exit(min(differ, 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    chance = random.Random(26)
    lines = [json.dumps(case(name, chance, 400), separators=(",", ":")) for name in KINDS for _ in range(CASES_EACH)]
    print("[\n" + ",\n".join(lines) + "\n]")
