"""What the experiments share: arguments, runs that resume, tables of means."""

import argparse
import json
import math
import os
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def argument_parser(description):
    """Return a parser with the arguments that every experiment has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="five seeds")
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--data", nargs="+", help="names of data sets")
    parser.add_argument("--methods", nargs="+", help="names of methods")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser


def run(function, tasks, path, n_jobs):
    """Call ``function(*task)`` in processes; results on file are not run again.

    Returns a dictionary from tasks to the dictionaries of numbers that came back, of
    all that is on file if there is nothing to run.
    """
    results = _read(path)
    todo = [task for task in tasks if task not in results]
    print(f"{len(tasks)} runs, of which {len(tasks) - len(todo)} are in {path.name}")
    start = time.perf_counter()
    calls = (joblib.delayed(_one_thread)(function, task) for task in todo)
    done = joblib.Parallel(n_jobs, return_as="generator_unordered")(calls)
    for number, (task, result) in enumerate(done, 1):
        results[task] = result
        _write(path, results)
        numbers = ", ".join(
            f"{key} {np.round(value, 3)}" for key, value in result.items()
        )
        minutes = (time.perf_counter() - start) / 60
        print(
            f"[{number}/{len(todo)}, {minutes:.1f} min] "
            f"{', '.join(map(str, task))}: {numbers}",
            flush=True,
        )
    return {task: results[task] for task in tasks or results}


def mean_and_deviation(results, task_matches, key):
    """Mean and standard deviation over seeds; NaN where there are too few of them."""
    values = [r[key] for task, r in results.items() if task_matches(task) and key in r]
    if not values:
        return math.nan, math.nan
    deviation = float(np.std(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


def cell(mean, deviation, width=17):
    """A number of a table, with its standard deviation."""
    text = "" if math.isnan(mean) else f"{mean:.3f}"
    text += "        " if math.isnan(deviation) else f" ± {deviation:.3f}"
    return f"{text:>{width}}"


def _one_thread(function, task):
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return task, function(*task)


def _read(path):
    if not path.is_file():
        return {}
    return {tuple(task): result for task, result in json.loads(path.read_text())}


def _write(path, results):
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(list(results.items()), indent=0))
    part.replace(path)
