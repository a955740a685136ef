"""Inputs with several right answers: every method beside the true density.

    python benchmarks/embedding/branches.py          # one seed, about five minutes
    python benchmarks/embedding/branches.py --full   # five seeds
    python benchmarks/embedding/branches.py --report # what is on file, without a run

For each data set are printed, as mean ± standard deviation over seeds, on 5,000 fresh
pairs after a fit to 3,000:

excess NLL   nats a pair that the method loses against the true density; with a learned
             target, nats of mutual information that its score falls short of the truth
recovery     share of draws within three standard deviations of a branch
usage TV     total variation between branches of the draws and true ones, per context
calibration  area between the distribution function of the PIT and the diagonal
energy       energy distance of drawn and true pairs, columns standardised
parts        connected components of the graph of a neural gas

Then come the gates of an MDN on A and a list of goals. Tables and pictures are saved
to `results`, numbers of single runs too, so that a stopped run goes on where it was.
"""

import time

import numpy as np
from _branch_data import DATA
from _branch_goals import goals
from _branch_pictures import draw_component_curve, draw_panels, draw_routing
from _experiment import (
    RESULTS,
    argument_parser,
    cell,
    mean_and_deviation,
    run,
)

from skgmje import (
    GaussianProcessEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    JEPAEmbedder,
    MDNEmbedder,
)
from skgmje._backend import make_generator
from skgmje.metrics import (
    branch_recovery,
    calibration_error,
    effective_rank,
    energy_distance,
)

N_TEST = 5000
# Contexts and draws of each, for the recovery of branches.
N_CONTEXTS, N_DRAWS = 200, 1000
OWN_UNITS = {"encoder": "identity", "target": "y"}
LEARNED = {"embedding_dim": 2, "target": "y", "target_encoder": "identity"}
BOTH_LEARNED = {"embedding_dim": 2, "target": "y"}


def em(n_components, covariance_type="full"):
    return lambda seed: GMJEEmbedder(
        n_components,
        components="em",
        covariance_type=covariance_type,
        random_state=seed,
        **OWN_UNITS,
    )


def gmje(n_components, components, **options):
    return lambda seed: GMJEEmbedder(
        n_components, components=components, random_state=seed, **options
    )


def mdn(n_components, **options):
    return lambda seed: MDNEmbedder(n_components, random_state=seed, **options)


# In the units of y: conditional density estimators.
METHODS = {
    "JEPA": lambda seed: JEPAEmbedder(
        target="y", target_encoder="identity", random_state=seed
    ),
    "RBF kernel": lambda seed: GaussianProcessEmbedder(target="y", random_state=seed),
    "GJE": lambda seed: GJEEmbedder(random_state=seed, **OWN_UNITS),
    "EM, K = 1": em(1),
    "EM, K = 3": em(3),
    "EM, K = 20": em(20),
    "EM, K = 20, tied": em(20, "tied"),
    "EM, K = 20, diag": em(20, "diag"),
    "EM, K = 20, spherical": em(20, "spherical"),
    "GNG": gmje(50, "gng", **OWN_UNITS),
    "bank": gmje(1024, "bank", **OWN_UNITS),
    "MDN, K = 3": mdn(3, **OWN_UNITS),
    "MDN": mdn(5, **OWN_UNITS),
}
# A trained encoder of a wide context; y in its own units.
LEARNED_METHODS = {
    "GJE, learned": lambda seed: GJEEmbedder(random_state=seed, **LEARNED),
    "EM, K = 20, learned": gmje(20, "em", **LEARNED),
    "prototypes, K = 20, learned": gmje(20, "prototypes", **LEARNED),
    "GNG, learned": gmje(50, "gng", **LEARNED),
    "bank, learned": gmje(1024, "bank", max_iter=30, **LEARNED),
    "MDN, moment KL, learned": mdn(5, **LEARNED),
    "MDN, Gaussian, learned": mdn(5, marginal="gaussian", **LEARNED),
    "MDN, VICReg, learned": mdn(5, marginal="vicreg", **LEARNED),
}
# Trained encoders of two wide views.
BOTH_LEARNED_METHODS = {
    "JEPA": lambda seed: JEPAEmbedder(random_state=seed, **BOTH_LEARNED),
    "GJE": lambda seed: GJEEmbedder(random_state=seed, **BOTH_LEARNED),
    "EM, K = 20": gmje(20, "em", **BOTH_LEARNED),
    "prototypes, K = 20": gmje(20, "prototypes", **BOTH_LEARNED),
    "GNG": gmje(50, "gng", **BOTH_LEARNED),
    "bank": gmje(1024, "bank", **BOTH_LEARNED),
    "MDN, diag": mdn(5, target_encoder="mlp", **BOTH_LEARNED),
    "MDN, full": mdn(5, target_encoder="mlp", covariance_type="full", **BOTH_LEARNED),
    "MDN, low rank": mdn(
        5, target_encoder="mlp", covariance_type="low_rank", rank=1, **BOTH_LEARNED
    ),
}
# The approximation of any density by more and more components: Theorem 1, Corollary 1.
COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200)
CURVE_DATA = ("A", "A, 30,000 pairs")
CURVE_METHODS = {
    f"EM, {covariance_type}, K = {n}": em(n, covariance_type)
    for covariance_type in ("full", "spherical")
    for n in COUNTS
}
COLUMNS = {
    "excess": "excess NLL",
    "recovery": "recovery",
    "usage": "usage TV",
    "calibration": "calibration",
    "energy": "energy",
    "rank": "eff. rank",
    "parts": "parts",
}
GROUPS = {
    "A, context in 32-D": METHODS | LEARNED_METHODS,
    "A, both in 32-D": BOTH_LEARNED_METHODS,
    CURVE_DATA[1]: CURVE_METHODS,
}


def measure(data_name, method, seed):
    """Fit one method to one data set, and return its numbers."""
    data = DATA[data_name]
    context, target = data.make(data.n_train, random_state=seed)
    test_context, test_target = data.make(N_TEST, random_state=1000 + seed)
    truth = data.log_density(test_context, test_target).mean()
    model = (GROUPS.get(data_name, METHODS) | CURVE_METHODS)[method](seed)
    views, test_views = data.show(context, target), data.show(test_context, test_target)
    # A joint density answers in both directions; the others are fitted again.
    backward = data.is_reversed and hasattr(model, "conditional_context")
    start = time.process_time()
    model.fit(*(views[::-1] if backward else views))
    numbers = {"CPU seconds": time.process_time() - start}
    if data.learned_target:
        numbers["excess"] = truth - model.score(*test_views)
        numbers["rank"] = effective_rank(model.transform(test_views[0]))
        return numbers
    answer = model.conditional_context if backward else model.conditional
    conditional = answer(test_views[0])
    log_prob = conditional.log_prob(conditional.means.new_tensor(test_target))
    numbers["excess"] = truth - float(log_prob.mean())
    numbers["calibration"] = calibration_error(conditional, test_target)
    numbers["energy"] = drawn_pairs(conditional, test_context, test_target, seed)
    if data.truth is not None:
        recovery = recovered(answer, data, test_context, test_views[0], seed)
        numbers["recovery"], numbers["usage"] = recovery
    if method == "MDN, K = 3" and data_name == "A":
        numbers |= routing(model)
    if method == "GNG":
        numbers["parts"] = model.gas_.n_connected_components_
    return numbers


def drawn_pairs(conditional, context, target, seed):
    """Energy distance of drawn pairs from true pairs of other rows."""
    generator = make_generator(seed, conditional.mean.device)
    draws = conditional.sample(generator=generator).cpu().numpy()
    half = len(context) // 2
    true = np.hstack([context, target])
    drawn = np.hstack([context, draws])
    scale = true.std(axis=0)
    return energy_distance(drawn[:half] / scale, true[half:] / scale)


def recovered(answer, data, context, seen, seed):
    conditional = answer(seen[:N_CONTEXTS])
    generator = make_generator(seed, conditional.mean.device)
    draws = conditional.sample((N_DRAWS,), generator=generator).movedim(0, 1)
    return branch_recovery(draws.cpu().numpy(), data.truth(context[:N_CONTEXTS]))


def routing(model):
    """How far the components of an MDN are from the three branches of A."""
    x = np.linspace(-0.95, 0.95, 191)[:, np.newaxis]
    conditional, truth = model.conditional(x), DATA["A"].truth(x)
    order = conditional.means.mean(0)[:, 0].argsort(descending=True)
    weights = conditional.weights[:, order]
    means = conditional.means[:, order, 0]
    deviations = conditional.component_covariances[:, order, 0, 0].sqrt()
    gates = {f"gate {k}": float(gate) for k, gate in enumerate(weights.mean(0))}
    return gates | {
        "mean error": float((means - truth.means[..., 0]).square().mean().sqrt()),
        "deviation": float(deviations.mean()),
    }


def table(data_name, results, methods):
    """One table: a row for each method, the best first."""

    def numbers(method, key):
        return mean_and_deviation(
            results, lambda task: task[:2] == (data_name, method), key
        )

    columns = [
        key
        for key in COLUMNS
        if not all(np.isnan(numbers(method, key)[0]) for method in methods)
    ]
    header = "".join(f"{COLUMNS[key]:>17}" for key in columns)
    lines = [f"{data_name:30}{header}{'seeds':>7}"]
    measured = {method for name, method, _ in results if name == data_name}
    for method in sorted(
        measured & set(methods), key=lambda method: numbers(method, "excess")[0]
    ):
        cells = "".join(cell(*numbers(method, key)) for key in columns)
        n_seeds = sum(task[:2] == (data_name, method) for task in results)
        lines.append(f"{method:30}{cells}{n_seeds:7}")
    return "\n".join(lines)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    n_seeds = arguments.seeds or (5 if arguments.full else 1)
    path = RESULTS / "branches.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    tables = {name: GROUPS.get(name, METHODS) for name in DATA if name != CURVE_DATA[1]}
    whole = arguments.data is None and arguments.methods is None
    if not whole:
        tables = {
            name: set(methods) & set(arguments.methods or methods)
            for name, methods in tables.items()
            if name in (arguments.data or DATA)
        }
    tasks = [(name, method) for name, methods in tables.items() for method in methods]
    if whole:
        tasks += [(name, method) for name in CURVE_DATA for method in CURVE_METHODS]
    tasks = [(*task, seed) for seed in range(n_seeds) for task in tasks]
    if arguments.report:
        tasks = []
    results = run(measure, tasks, path, arguments.jobs)
    text = "\n\n".join(table(name, results, tables[name]) for name in tables)
    text += "\n" + goals(results)
    print("\n" + text)
    if whole:
        note = f"{DATA['A'].n_train:,} training and {N_TEST:,} test pairs"
        note += "; mean ± standard deviation of the seeds in the last column"
        (RESULTS / "branches.txt").write_text(f"{note}\n\n{text}\n")
        draw_panels(METHODS, RESULTS / "branches_panels.png")
        draw_routing(METHODS["MDN, K = 3"], RESULTS / "branches_routing.png")
        draw_component_curve(results, COUNTS, RESULTS / "branches_components.png")
        print(f"saved to {RESULTS}")


if __name__ == "__main__":
    main()
