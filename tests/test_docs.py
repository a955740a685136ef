"""The documentation is complete, its code runs, and it builds without a warning."""

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import skgmje

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
PACKAGES = ["skgmje", *(f"skgmje.{name}" for name in sorted(skgmje._SUBMODULES))]
PAGES = sorted(
    path.relative_to(DOC).as_posix()
    for path in [DOC / "index.rst", DOC / "user_guide.rst", *DOC.glob("guide/*.rst")]
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package):
    reference = (DOC / "api.rst").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(package)}\n-+$", reference, re.MULTILINE)
    names = importlib.import_module(package).__all__
    missing = [
        name
        for name in names
        if not re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", reference)
    ]
    assert not missing


def test_every_label_of_a_docstring_is_in_the_guide():
    package = Path(skgmje.__file__).parent
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in package.rglob("*.py")
    )
    pages = "\n".join((DOC / page).read_text(encoding="utf-8") for page in PAGES)
    labels = set(re.findall(r":ref:`[^<`]+<(\w+)>`", sources))
    assert labels
    assert labels <= set(re.findall(r"^\.\. _(\w+):", pages, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_the_guide_runs(page):
    pytest.importorskip("pandas")
    pytest.importorskip("rich")
    pytest.importorskip("skops")
    result = doctest.testfile(
        str(DOC / page),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
        encoding="utf-8",
    )
    assert result.failed == 0


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    for module in ("sphinx", "numpydoc", "sphinx_gallery", "matplotlib"):
        pytest.importorskip(module)
    built = shutil.ignore_patterns("_build", "generated", "auto_examples")
    shutil.copytree(DOC, tmp_path / "doc", ignore=built)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    arguments = ["-W", "--keep-going", "-q", "-b", "html", "doc", "html"]
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments],
        cwd=tmp_path,
        env=os.environ | {"SKGMJE_DOC_GALLERY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    assert (tmp_path / "html" / "index.html").is_file()
