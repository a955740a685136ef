"""Configuration of the documentation: ``sphinx-build -W -b html doc doc/_build/html``.

The environment variable ``SKGMJE_DOC_GALLERY=0`` leaves the examples unexecuted.
"""

import os
import re

import skgmje

project = "skgmje"
author = "The skgmje developers"
copyright = "The skgmje developers"
release = skgmje.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "code"
add_function_parentheses = False
add_module_names = False
toc_object_entries = False

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": os.environ.get("SKGMJE_DOC_GALLERY", "1") != "0",
    "doc_module": ("skgmje",),
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
}

html_theme = "alabaster"
html_static_path = ["_static"]
html_title = f"skgmje {release}"
html_theme_options = {
    "description": "Probabilistic joint embeddings in scikit-learn style",
    "fixed_sidebar": True,
    "page_width": "1220px",
    "body_max_width": "none",
    "sidebar_width": "230px",
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_copy_source = False
html_show_sphinx = False


def _unlink_foreign_docstring(app, what, name, obj, options, lines):
    """Turn the references of inherited docstrings into plain words.

    scikit-learn's and torch's labels and substitutions are not ours to resolve.
    """
    function = getattr(obj, "__func__", obj)
    module = getattr(function, "__module__", None) or ""
    if module.partition(".")[0] == "skgmje":
        return
    text = "\n".join(lines)
    text = re.sub(r":(?:ref|term|doc):`([^`<]+?)\s*(?:<[^`>]*>)?`", r"\1", text)
    lines[:] = text.split("\n")


def setup(app):
    """Register the hook before numpydoc's own."""
    app.connect("autodoc-process-docstring", _unlink_foreign_docstring, priority=100)
