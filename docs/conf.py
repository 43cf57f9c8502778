"""The site: Sphinx over MyST pages, docstrings and the tutorials in ``examples/``.

    python -m sphinx -W --keep-going -b html docs docs/_build

needs no network: inventories are in ``docs/inventories``, and equations become MathML.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import typing
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from typing_extensions import is_protocol

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
sys.path.insert(0, str(DOCS.parent))

import mier_adapt  # noqa: E402 - from this checkout
import mier_adapt_envs  # noqa: E402
from mier_adapt_envs import change_set, changed_robots  # noqa: E402

project = "mier-adapt"
author = "The mier-adapt developers"
copyright = f"{author}, MIT licence"
release = version = mier_adapt.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "data",
    "inventories",
    "**/*.ipynb",
    "**/*.py",
    "**/sg_execution_times.rst",
]
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r"'.*'"),  # axes in jaxtyping's annotations
    (r"py:class", r"numpy\._typing\..*"),  # what ArrayLike is made of
    (r"py:class", r"concurrent\.futures\._base\..*"),  # Python documents it where it is imported
    (r"py:class", r"mier_adapt\..*\._[A-Z]\w*"),  # type variables
    (r"py:exc", r"gymnasium\.error\..*"),  # has no page
]

html_domain_indices = False  # the reference has a page for each room
html_theme = "furo"
html_title = f"mier-adapt {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
intersphinx_mapping = {
    library: (address, str(DOCS / "inventories" / f"{library}.inv"))
    for library, address in {
        "gymnasium": "https://gymnasium.farama.org",
        "jaxtyping": "https://docs.kidger.site/jaxtyping",
        "mujoco": "https://mujoco.readthedocs.io/en/stable",
        "numpy": "https://numpy.org/doc/stable",
        "python": "https://docs.python.org/3",
        "tianshou": "https://tianshou.org/en/stable",
        "torch": "https://docs.pytorch.org/docs/stable",
    }.items()
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"/tutorial_",
    "ignore_pattern": r"(^|/)(?!tutorial_)\w+\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": "conf.fast_argv",
    "reset_modules": (),
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "min_reported_time": 1e6,
    "parallel": 2,
}


def fast_argv(_gallery: dict[str, Any], _variables: dict[str, Any]) -> list[str]:
    """The arguments that the site runs each tutorial with."""
    return ["--fast"]


def write(path: Path, text: str) -> None:
    """Write a page, unless it is there already: Sphinx reads changed files again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def as_page(docstring: str | None) -> str:
    """An environment's docstring, which is Markdown but for its references."""
    return re.sub(r":(\w+):`", r"{py:\1}`", docstring or "")


def write_environment_pages(_app: Sphinx) -> None:
    """A page for each family: its picture, and its environment's docstring, which is Markdown."""
    folder = DOCS / "environments"
    folder.mkdir(exist_ok=True)
    names = "\n".join([*mier_adapt_envs.families(), "ChangedRobots"])
    write(
        folder / "index.md",
        "# Environments\n\nOne page for each family of tasks, and one for robots that change after "
        f"training.\n\n```{{toctree}}\n{names}\n```\n",
    )
    write(folder / "ChangedRobots.md", changed_robots_page())
    for family in mier_adapt_envs.families():
        env = mier_adapt_envs.env_class(family)
        text = as_page(inspect.getdoc(env))
        page = (
            f"# {family}\n\n"
            f"```{{py:class}} {env.__module__}.{env.__name__}\n:no-typesetting:\n```\n\n"
            f"`{env.env_id}`\n\n![{family}](../gallery/{family}.png)\n\n{text}\n"
        )
        write(folder / f"{family}.md", page)


def changed_robots_page() -> str:
    """What can change about gymnasium's robots, and what does in each set: kind by kind."""
    page = ["# Changed robots", as_page(inspect.getdoc(changed_robots.ChangedRobotEnv))]
    for robot in changed_robots.ROBOTS:
        sets = {name: change_set(robot, name) for name in ("development", "test")}
        kinds = dict.fromkeys(each.kind for each in sets["test"])
        cells = [
            [kind, *("; ".join(str(c) for c in sets[name] if c.kind == kind) for name in sets)]
            for kind in kinds
        ]
        rows = [["Kind", *sets], ["---"] * 3, *cells]
        env_id, env = sets["test"].env_id, getattr(changed_robots, f"Changed{robot}Env")
        page += [
            f"## {robot}",
            f"`{env_id}`. {inspect.getdoc(env)}",
            "\n".join(f"| {' | '.join(row)} |" for row in rows),
            *(f"`{name}`: {len(each)} changes, hash `{each.hash}`" for name, each in sets.items()),
        ]
    return "\n\n".join(page) + "\n"


_SECTIONS = Config(
    napoleon_custom_sections=[("Source", "notes_style"), ("Arguments", "params_style")]
)


def read_docstring(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    """Google's sections, and mathematics between dollars, as reStructuredText."""
    # In the first line of an attribute, napoleon takes what stands before a colon for its type.
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, _SECTIONS, app, what, name, documented, options).lines()
    text = re.sub(
        r"\$\$(.+?)\$\$",
        lambda match: ".. math:: " + " ".join(match[1].split()) + "\n",
        "\n".join(lines),
        flags=re.S,
    )
    lines[:] = re.sub(r"\$([^$\n]+)\$", r":math:`\1`", text).split("\n")


def show_plain_types(_app: Sphinx) -> None:
    """Show ``int`` where an annotation is ``Size``, whose range is for ``@checked`` to read."""
    found = pkgutil.walk_packages(mier_adapt.__path__, "mier_adapt.")
    modules = {each.name: importlib.import_module(each.name) for each in found}
    named = [each for module in modules.values() for each in vars(module).values()]
    members = [each for cls in filter(inspect.isclass, named) for each in vars(cls).values()]
    for value in (*named, *members):
        each = inspect.unwrap(getattr(value, "__func__", value))
        if (inspect.isclass(each) or inspect.isfunction(each)) and each.__module__ in modules:
            own = SimpleNamespace(__annotations__=inspect.get_annotations(each))
            # In place, since the wrappers of checked functions share them.
            each.__annotations__.update(typing.get_type_hints(own, vars(modules[each.__module__])))


def hide_constructor(
    _app: Sphinx, what: str, _name: str, documented: Any, *_: Any
) -> tuple[str, None] | None:
    """A protocol is not called: what it would say of ``*args`` is left out."""
    return ("", None) if what == "class" and is_protocol(documented) else None


def visit_math(writer: Any, node: nodes.math) -> None:
    """Inline mathematics as MathML."""
    writer.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_displaymath(writer: Any, node: nodes.math_block) -> None:
    """An equation as MathML."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Add what Sphinx lacks for us."""
    warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    # Before the gallery, whose scripts register families of their own.
    app.connect("builder-inited", write_environment_pages, priority=1)
    # After the gallery, whose scripts rely on those checks.
    app.connect("builder-inited", show_plain_types, priority=900)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-process-docstring", read_docstring)
