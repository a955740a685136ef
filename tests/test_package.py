"""The package as a whole: cheap to import, layered, documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import skgmje

ROOT = Path(skgmje.__file__).parent
# The floor of each room; a room imports from lower floors and from its own files.
FLOORS = {
    "_backend": 0,
    "_validation": 0,
    "exceptions": 0,
    "io": 0,
    "mixture": 1,
    "linear": 2,
    "networks": 2,
    "views": 2,
    "latent": 2,
    "training": 3,
    "embedding": 4,
    "datasets": 5,
    "inspection": 5,
    "metrics": 5,
}
# Rooms of one floor that may know each other, in this direction.
SAME_FLOOR = {
    ("latent", "networks"),
    ("metrics", "datasets"),
    ("metrics", "inspection"),
}
PUBLIC_ROOMS = [
    "skgmje",
    *(f"skgmje.{room}" for room in FLOORS if not room.startswith("_")),
]


def sources():
    return sorted(ROOT.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(path):
    """Modules of this library that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            module = node.module or ""
            if module == "skgmje":
                yield from (f"skgmje.{alias.name}" for alias in node.names)
            elif module.startswith("skgmje."):
                yield module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "skgmje")


def test_every_room_has_a_floor():
    rooms = {room_of(module_name(path)) for path in sources()} - {""}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_room_imports_from_lower_floors_only(path):
    room = room_of(module_name(path))
    for module in imports_of(path):
        other = room_of(module)
        # The package itself, for its version and its lazy names.
        if other in ("", room) or room == "":
            continue
        assert FLOORS[other] < FLOORS[room] or (room, other) in SAME_FLOOR, (
            f"{room} imports {module}"
        )


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module_name(path): {m for m in imports_of(path) if m != "skgmje"}
        for path in sources()
        if module_name(path) != "skgmje"
    }
    done = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module in done or module not in graph:
            return
        for other in graph[module]:
            # A package imports its own files; a file may name its package's neighbours.
            visit(other, [*trail, module])
        done.add(module)

    for module in graph:
        visit(module, [])


def run_python(code):
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    loaded = run_python("import skgmje, sys; print(*sys.modules)")
    heavy = {"torch", "sklearn", "numpy", "scipy", "pandas", "joblib", "matplotlib"}
    assert heavy & set(loaded) == set()


def test_importing_every_room_loads_no_plotting():
    rooms = "; ".join(f"import {room}" for room in PUBLIC_ROOMS)
    loaded = run_python(f"{rooms}; import sys; print(*sys.modules)")
    assert {"torch", "sklearn"} <= set(loaded)
    assert {"matplotlib", "polars", "mlxtend"} & set(loaded) == set()


def test_importing_every_room_changes_no_global_state():
    rooms = "; ".join(f"import {room}" for room in PUBLIC_ROOMS)
    changed = run_python(
        "import torch, sklearn, warnings, numpy as np; sklearn.get_config(); "
        "before = (torch.get_default_dtype(), torch.get_num_threads(), "
        "sklearn.get_config(), torch.get_rng_state().tolist()); "
        f"{rooms}; "
        "after = (torch.get_default_dtype(), torch.get_num_threads(), "
        "sklearn.get_config(), torch.get_rng_state().tolist()); "
        "print(before != after)"
    )
    assert changed == ["False"]


def test_names_resolve_lazily():
    assert set(skgmje.__all__) <= set(dir(skgmje))
    for name in dir(skgmje):
        assert getattr(skgmje, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(
        AttributeError, match="module 'skgmje' has no attribute 'nothing'"
    ):
        skgmje.nothing  # noqa: B018


@pytest.mark.parametrize("room", PUBLIC_ROOMS)
def test_every_room_says_what_it_exports(room):
    module = importlib.import_module(room)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name)


def public_objects():
    seen = {}
    for room in PUBLIC_ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                seen.setdefault(value, f"{room}.{name}")
    return [pytest.param(value, id=name) for value, name in seen.items()]


def takes_parameters(value):
    signature = inspect.signature(value)
    # A class without a constructor of its own has that of nn.Module or of object.
    own = {"self", "args", "kwargs"}
    return any(name not in own for name in signature.parameters)


@pytest.mark.parametrize("value", public_objects())
def test_public_names_are_documented(value):
    text = inspect.getdoc(value)
    assert text
    assert text.splitlines()[0].endswith((".", ":"))
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    if inspect.isclass(value):
        if getattr(value, "_is_protocol", False) or not takes_parameters(value):
            return
        assert "Parameters\n-----" in text or "Attributes\n-----" in text
    else:
        if takes_parameters(value):
            assert "Parameters\n-----" in text
        assert "Returns\n-----" in text


@pytest.mark.parametrize(
    "value", [p for p in public_objects() if not p.values[0].__name__.endswith("Mixin")]
)
def test_public_names_have_an_example(value):
    if getattr(value, "_is_protocol", False):
        return
    assert "Examples\n-----" in inspect.getdoc(value)


ESTIMATORS = [
    "ContrastiveEmbedder",
    "GJEEmbedder",
    "GMJEEmbedder",
    "GaussianMixture",
    "GaussianProcessEmbedder",
    "GrowingNeuralGas",
    "JEPAEmbedder",
    "KalmanEmbedder",
    "LinearContrastive",
    "LDMEmbedder",
    "LDMICA",
    "MDNEmbedder",
    "OutlierDetector",
    "VJEEmbedder",
    "ParticleBank",
]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_public_methods_of_estimators_are_documented(name):
    estimator = getattr(skgmje, name)
    for method, value in inspect.getmembers(estimator, inspect.isfunction):
        if method.startswith("_"):
            continue
        text = inspect.getdoc(value)
        assert text, method
        if value.__module__.startswith("skgmje") and takes_parameters(value):
            assert "Parameters\n-----" in text, method


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_parameter_of_an_estimator_is_documented(name):
    estimator = getattr(skgmje, name)
    for parameter in inspect.signature(estimator).parameters:
        assert f"\n{parameter} :" in inspect.getdoc(estimator) or (
            f"{parameter}, " in inspect.getdoc(estimator)
        ), parameter


def test_the_version_is_a_version():
    assert skgmje.__version__[0].isdigit()
