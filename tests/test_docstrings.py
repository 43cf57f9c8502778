"""Every public name is documented as the house style asks, and has its place on the site."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest
from typing_extensions import is_protocol

from tests.rooms import modules, public_names, rooms

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))

NAMES = public_names()

FROM_THE_PAPER = {
    "mier_adapt:ContextModel",
    "mier_adapt:ExperienceRelabeler",
    "mier_adapt:GradientContextAdapter.meta_loss",
    "mier_adapt:adapt",
    "mier_adapt:adapt_algorithm",
    "mier_adapt:fit_model",
    "mier_adapt:meta_train_offline",
    "mier_adapt.context_adapter:adapt_context",
    "mier_adapt.integration.task_replay:TaskReplayBuffer",
    "mier_adapt.integration:MixedReplayBuffer",
    "mier_adapt.integration:build_sac",
    "mier_adapt.training.meta_training:MetaTrainer",
    "mier_adapt.training:Mier",
}


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
    if is_protocol(cls):
        fields = inspect.get_annotations(cls)
    made = not (dataclasses.is_dataclass(cls) or is_protocol(cls) or fields)
    described = {}
    for each in reversed(cls.__mro__):
        if each.__module__.startswith("mier_adapt"):
            described |= documented_assignments(parse(each))
    for field in fields:
        if not described.get(field):
            yield f"{name}.{field}: no docstring below it"
    if made and "__init__" in vars(cls):
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


def sources_of_room(room):
    """Syntax trees of a room's files."""
    file = Path(rooms()[room].__file__)
    paths = file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
    return [ast.parse(path.read_text()) for path in paths]


@pytest.mark.parametrize("public", NAMES, ids=lambda public: public.path)
def test_every_public_name_is_documented(public):
    value = inspect.unwrap(public.value)
    found = []
    if inspect.isclass(value):
        found += faults_of_class(public.name, value)
    elif inspect.isfunction(value):
        found += faults(public.name, value, inspect.getdoc(value))
    elif not public.name.startswith("__"):
        described = [documented_assignments(tree) for tree in sources_of_room(public.room)]
        if not any(each.get(public.name) for each in described):
            found.append(f"{public.name}: no docstring below it")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", sorted(FROM_THE_PAPER))
def test_the_papers_mathematics_names_its_source(path):
    assert "arXiv:2006.07178" in section(inspect.getdoc(pkgutil.resolve_name(path)), "Source")


def on_the_site(page):
    """What a page documents, each as ``(path, object)``."""
    module, found = "", []
    directives = re.findall(
        r"^\.\. (currentmodule|auto(?:module|class|function|data|exception)):: (\S+)", page, re.M
    )
    for kind, name in directives:
        if kind == "currentmodule":
            module = name
        elif kind == "automodule":
            whole = importlib.import_module(name)
            found += [
                (f"{name}.{each}", value)
                for each, value in vars(whole).items()
                if each in getattr(whole, "__all__", ()) or getattr(value, "__module__", "") == name
            ]
        else:
            ours = name.split(".")[0] in ("mier_adapt", "mier_adapt_envs")
            path = name if ours else f"{module}.{name}"
            # With a colon, since a module and what it defines may share a name.
            found.append((path, pkgutil.resolve_name(":".join(path.rsplit(".", 1)))))
    return found


def test_every_public_name_is_on_the_site():
    documented = {id(value) for page in PAGES for _, value in on_the_site(page.read_text())}
    missing = [public.path for public in NAMES if id(public.value) not in documented]
    assert not missing


def test_names_are_listed_by_their_rooms_alone():
    listing = {name for name, module in modules().items() if hasattr(module, "__all__")}
    assert listing == set(rooms())
