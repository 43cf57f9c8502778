"""The house's measures: how much is public, how much of the code only checks, how large rooms are.

A failure here asks for a decision, not for a trick: is the name needed, the check the boundary's,
the room one room?
"""

import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mier_adapt
from tests.rooms import PACKAGES, public_names, rooms

REPOSITORY = Path(__file__).parents[1]
MOST_NAMES = 113
MOST_NAMES_AT_THE_TOP = 24
MOST_CHECKS = 0.10
"""The codebases that the house style learned from took 3 to 7%, Gymnasium's wrappers 16%."""
MOST_OF_A_ROOM = 0.25

FOREIGN_FILES = "_storage"
"""The room that reads what others may have written."""
COMPONENTS = {
    "_evidence",
    "_meta_gradient",
    "changes",
    "compensation",
    "context_adapter",
    "context_model",
    "diagnosis",
    "gates",
    "model_fitting",
    "protocols",
    "relabeler",
    "transitions",
}


class Measured(NamedTuple):
    """A file."""

    package: str
    room: str
    code: int
    """Lines of code: without docstrings, comments and blank lines."""
    checks: int
    """Those of them that only check."""


# Counting -----------------------------------------------------------------------------------


def is_check(name: str) -> bool:
    """Whether a function of this name only checks: ``require_boxes``, ``_check_open``.

    Those that look for numbers that are not finite watch computations, not arguments; those that
    hold a loaded state to an object look at what a file says.
    """
    name = name.lstrip("_")
    if name.startswith("require_finite") or is_of_files(name):
        return False
    return name.startswith(("require_", "check"))  # but not torch's requires_grad_


def is_of_files(name: str) -> bool:
    """Whether a function of this name holds a loaded state to an object: ``check_state``."""
    name = name.lstrip("_")
    return name.startswith("check") and name.endswith("state")


def called(node: Any) -> str:
    """The last name of what a call calls."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def only_checks(node: ast.AST) -> bool:
    """Whether a statement does nothing else."""
    if isinstance(node, ast.Raise):
        return not (isinstance(node.exc, ast.Call) and called(node.exc) == "FloatingPointError")
    if isinstance(node, ast.If):
        return all(map(only_checks, node.body + node.orelse))
    if isinstance(node, ast.For | ast.With):
        return all(map(only_checks, node.body))
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and is_check(called(node.value))
    if isinstance(node, ast.FunctionDef):
        return is_check(node.name)
    return isinstance(node, ast.Assert)


def check_lines(source: str) -> set[int]:
    """Lines of statements that only check, and of calls of functions that do."""

    def visit(node: ast.AST) -> Iterator[int]:
        for child in ast.iter_child_nodes(node):
            calls = isinstance(child, ast.Call) and is_check(called(child))
            if isinstance(child, ast.FunctionDef) and is_of_files(child.name):
                continue
            translates = isinstance(node, ast.ExceptHandler) and isinstance(child, ast.Raise)
            if not translates and (calls or only_checks(child)):
                yield from range(child.lineno, child.end_lineno + 1)  # type: ignore[attr-defined]
            else:
                yield from visit(child)

    return set(visit(ast.parse(source)))


def code_lines(source: str) -> set[int]:
    """Physical lines with code on them."""
    empty = {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for each in node.body:
                value = each.value if isinstance(each, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    lines -= set(range(each.lineno, (each.end_lineno or each.lineno) + 1))
    return lines


def room_of(path: Path) -> str:
    """The room of a file of ``mier_adapt``, given by its path within."""
    if len(path.parts) > 1:
        return path.parts[0]
    return "components" if path.stem in COMPONENTS else "top"


def measured() -> list[Measured]:
    """All files of both packages."""
    found = []
    for package in PACKAGES:
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            source, inner = path.read_text(), path.relative_to(root)
            code = code_lines(source)
            checks = code if inner.name == "_checks.py" else code & check_lines(source)
            room = room_of(inner) if package is mier_adapt else package.__name__
            found.append(Measured(package.__name__, room, len(code), len(checks)))
    return found


# Tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "code", "checks"),
    [
        ('"""Docstring."""\n\n# comment\nx = 1\n', 1, 0),
        ("if bad:\n    raise ValueError(\n        'so'\n    )\nx = 1\n", 5, 4),
        ("if bad:\n    x = 1\n    raise ValueError('so')\n", 3, 1),
        ("if bad:\n    raise ValueError('so')\nelse:\n    x = 1\n", 4, 1),
        ("assert x\nrequire_boxes(\n    x\n)\nself._check_open()\n", 5, 5),
        ("shapes = f(check_shape(x),\n    y)\n", 2, 1),
        ("def _require_x(x):\n    '''Docstring.'''\n    if x:\n        x += 1\n", 3, 3),
        ("class A:\n    def _check_open(self):\n        return self.x\n", 3, 2),
        ("class A:\n    x: int\n    '''What.'''\n    def act(self):\n        ...\n", 4, 0),
        ("if not isfinite(x):\n    raise FloatingPointError('so')\n", 2, 0),
        ("require_finite_parameters(x, 'it')\n", 1, 0),
        ("for x in y:\n    if x:\n        raise TypeError\n", 3, 3),
    ],
)
def test_the_counter_counts(source: str, code: int, checks: int) -> None:
    assert len(code_lines(source)) == code
    assert len(code_lines(source) & check_lines(source)) == checks


TOP_LEVEL = {
    *("mier_adapt", "mier_adapt_envs", "examples", "docs", "tests", "pyproject.toml", "README.md"),
    *(".ci", ".gitignore", "LICENSE", "constraints.txt", "conftest.py"),
}


def test_nothing_else_lies_at_the_top_of_the_repository() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout of git")
    assert {line.partition("/")[0] for line in done.stdout.splitlines()} == TOP_LEVEL


def test_few_names_are_public() -> None:
    names = public_names()
    by_room = Counter(public.room for public in names)
    for room in rooms():
        print(f"{room}: {by_room[room]}")
    print(f"{len(names)} names in all, {len(mier_adapt.__all__)} in mier_adapt")
    assert len(names) <= MOST_NAMES
    assert len(mier_adapt.__all__) <= MOST_NAMES_AT_THE_TOP


def test_the_account_of_the_design_names_every_file() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"\w+\.py\b", text))
    files = {
        path
        for package in PACKAGES
        for path in Path(package.__path__[0]).rglob("*.py")
        if path.name not in ("__init__.py", "_version.py") and path.parent.name != "commands"
    }  # subcommands are a file each, as `mier-adapt --help` lists them
    assert len(files) > 100
    missing = [str(path) for path in files if path.name not in named]
    assert sorted(missing) == []


def test_little_of_the_code_only_checks() -> None:
    """Public calls check their arguments, once; what is inside trusts them.

    A line only checks if it is of an ``if`` whose body only raises, of another ``raise`` or an
    ``assert``, of a call or the definition of a function ``require…`` or ``check…``, or in
    ``_checks.py``. Not counted are guards that raise a FloatingPointError, which watch what was
    computed, and what an ``except`` raises, which says in other words what something else found.

    What reads files, ``mier_adapt/_storage``, is counted on a line of its own and is not in the
    bound, and neither are functions ``check_…state`` that hold a loaded state to a live object:
    nothing in a file may be believed, so checking is the work there.
    """
    code: Counter[str] = Counter()
    checks: Counter[str] = Counter()
    for each in measured():
        code[each.room] += each.code
        checks[each.room] += each.checks
    bounded = [room for room in code if room != FOREIGN_FILES]
    total, checking = (sum(count[room] for room in bounded) for count in (code, checks))
    for room in bounded:
        print(f"{room}: {checks[room]} of {code[room]} lines, {checks[room] / code[room]:.1%}")
    print(f"in all: {checking} of {total} lines, {checking / total:.1%}")
    foreign = checks[FOREIGN_FILES], code[FOREIGN_FILES]
    print(f"not counted, {FOREIGN_FILES}: {foreign[0]} of {foreign[1]} lines")
    assert checking / total <= MOST_CHECKS


def test_no_room_is_the_whole_house() -> None:
    code: Counter[str] = Counter()
    for each in measured():
        if each.package == "mier_adapt":
            code[each.room] += each.code
    for room, lines in code.most_common():
        print(f"{room}: {lines} of {code.total()} lines, {lines / code.total():.0%}")
    assert set(code) == {
        *("adaptation", "agents", "baselines", "cli", "integration", "training", "wrappers"),
        "sweeps",
        *("_storage", "components", "top"),
    }
    assert max(code.values()) <= MOST_OF_A_ROOM * code.total()
