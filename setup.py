"""Packaging metadata of skgmje."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"',
    (ROOT / "skgmje" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

setup(
    name="skgmje",
    version=VERSION,
    description="Probabilistic joint embeddings in scikit-learn style",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.11",
    packages=find_packages(include=["skgmje", "skgmje.*"]),
    package_data={"skgmje": ["py.typed"]},
    install_requires=[
        "numpy>=2.0",
        "scipy>=1.13",
        "scikit-learn>=1.9",
        "torch>=2.4",
        "joblib>=1.4",
        "safetensors>=0.4.3",
        "threadpoolctl>=3.5",
    ],
    extras_require={
        "plot": ["matplotlib>=3.8"],
        "progress": ["rich>=13"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "pandas>=2.2",
            "polars>=1.0",
            "pyarrow>=15",
            "skops>=0.11",
            "matplotlib>=3.8",
            "rich>=13",
            "mlxtend>=0.23",
        ],
        "doc": [
            "sphinx>=8",
            "numpydoc>=1.8",
            "sphinx-gallery>=0.18",
            "matplotlib>=3.8",
            "mlxtend>=0.23",
            "pandas>=2.2",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
