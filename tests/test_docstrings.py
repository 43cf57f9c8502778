"""Every public name is documented as the house style asks, and has its place on the site."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import mier_adapt
import mier_adapt_envs

ROOT = Path(__file__).parent.parent
API = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))

PACKAGES = (mier_adapt, mier_adapt_envs)
MODULES = [package.__name__ for package in PACKAGES] + [
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not any(part.startswith("_") for part in module.name.split("."))
]

FROM_THE_PAPER = {
    "ContextModel",
    "ExperienceRelabeler",
    "GradientContextAdapter.fine_tune",
    "GradientContextAdapter.meta_loss",
    "MetaTrainer",
    "MixedReplayBuffer",
    "TaskReplayBuffer",
    "adapt_context",
    "build_sac",
    "fine_tune_by_relabeling",
}


def public_names():
    """All names in any ``__all__``, each once, as ``(module, name)`` of where it is defined."""
    seen = {}
    for module in map(importlib.import_module, MODULES):
        for name in getattr(module, "__all__", ()):
            value = inspect.unwrap(getattr(module, name))
            defined = getattr(value, "__module__", None) or module.__name__
            if inspect.ismodule(value) or not defined.startswith("mier_adapt"):
                continue  # a submodule; another library's
            if not callable(value) or not hasattr(value, "__qualname__"):
                seen.setdefault((id(value), name), (module.__name__, name))
            else:
                seen[id(value), name] = (defined, name)
    return sorted(seen.values())


NAMES = public_names()


def documented_assignments(tree):
    """Names that are assigned in a module or class body, and whether a string follows."""
    followed = zip(tree.body, [*tree.body[1:], None], strict=True)
    return {
        target.id: isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        for node, after in followed
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
        if isinstance(target, ast.Name)
    }


def parse(value):
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    return node


def raised_by(function):
    """Names of the exceptions that a function's own body raises, and nothing in it catches."""
    tree = parse(function)
    caught = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.Try)
        for statement in block.body
        for node in ast.walk(statement)
    }
    return {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and node not in caught
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }


def section(text, *names):
    found = re.search(rf"^(?:{'|'.join(names)}):\n((?:[ ]+.*\n|\n)+)", text + "\n", re.M)
    return found[1] if found else ""


def faults(name, function, text):
    """What a function's docstring lacks; a class's stands for its constructor."""
    if not text:
        yield f"{name}: no docstring"
        return
    parameters = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("self", "cls") and parameter.kind is not parameter.VAR_KEYWORD
    ]
    arguments = section(text, "Args", "Arguments")
    if arguments or len(parameters) > 3:
        for parameter in parameters:
            if not re.search(rf"^ +\**{parameter}:", arguments, re.M):
                yield f"{name}: argument {parameter} is not described"
    for exception in raised_by(function):
        if not re.search(rf"\b{exception}\b", text):
            yield f"{name}: does not say that it raises {exception}"


def faults_of_class(name, cls):
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):  # a dataclass's own
        yield f"{name}: no docstring"
        return
    fields = vars(cls).get("__dataclass_fields__") or vars(cls).get("_fields") or ()
    described = {}
    for each in reversed(cls.__mro__):
        if each.__module__.startswith("mier_adapt"):
            described |= documented_assignments(parse(each))
    for field in fields:
        if not described.get(field):
            yield f"{name}.{field}: no docstring below it"
    if not fields and "__init__" in vars(cls):
        yield from faults(name, cls.__init__, inspect.getdoc(cls))
    for attribute, value in vars(cls).items():
        if attribute.startswith("_") or attribute in fields:
            continue
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        text = inspect.getdoc(getattr(cls, attribute))
        inherited = any(hasattr(base, attribute) for base in cls.__mro__[1:])
        if isinstance(value, property) or (inherited and inspect.isfunction(function)):
            if not text:
                yield f"{name}.{attribute}: no docstring"
        elif inspect.isfunction(function):
            yield from faults(f"{name}.{attribute}", function, text)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(module):
    found = []
    for _, name in (pair for pair in NAMES if pair[0] == module):
        value = inspect.unwrap(getattr(importlib.import_module(module), name))
        if inspect.isclass(value):
            found += faults_of_class(name, value)
        elif inspect.isfunction(value):
            found += faults(name, value, inspect.getdoc(value))
        elif not name.startswith("__"):
            tree = ast.parse(inspect.getsource(importlib.import_module(module)))
            if not documented_assignments(tree).get(name):
                found.append(f"{name}: no docstring below it")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", sorted(FROM_THE_PAPER))
def test_the_papers_mathematics_names_its_source(path):
    name, *attribute = path.split(".")
    (module,) = (module for module, public in NAMES if public == name)
    value = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(getattr(value, *attribute) if attribute else value)
    assert "arXiv:2006.07178" in section(text, "Source")


def test_every_public_name_is_on_the_site():
    whole = set(re.findall(r"^\.\. automodule:: (\S+)", API, re.M))
    named = set(re.findall(r"^\.\. auto(?:class|function|data|exception):: (\S+)", API, re.M))
    families = {mier_adapt_envs.env_class(family).__name__ for family in mier_adapt_envs.families()}
    missing = [
        f"{module}.{name}"
        for module, name in NAMES
        if not (module in whole or name in named or name in families or f"{module}.{name}" in named)
    ]
    assert not missing
    assert len(NAMES) > 100
