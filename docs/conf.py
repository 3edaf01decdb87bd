"""How the documentation is built: ``python -m sphinx -W docs build/docs``."""

import os
import sys
from pathlib import Path

import npbn

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# The arrays of the tutorials are small: threads of BLAS and torch would only wait for each other.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

project = "npbn"
author = "the npbn maintainers"
version = release = npbn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "docstrings",
    "mathml",
]
exclude_patterns = ["_*", "laboratory/*.md", "package_index.md"]

# -- pages: MyST, tutorials executed at every build ---------------------------------------------
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables in what a cell shows

# -- API ----------------------------------------------------------------------------------------
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the docstrings have them
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template has them
numpydoc_class_members_toctree = False
templates_path = ["_templates"]

# -- HTML: nothing is loaded from another server --------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = f"npbn {release}"
html_static_path = ["_static"]
html_css_files = ["npbn.css"]
html_math_renderer = "mathml"
html_sidebars = {page: [] for page in ("index", "laboratory", "development")}
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}
copyright = "the npbn maintainers; MIT licence"
