"""Options: every field of configurations, from the command line and from a TOML file."""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from mier_adapt._storage.files import read_bytes
from mier_adapt.agents.configs import GATES
from mier_adapt.cli.words import UsageError, in_shell_words, require_known
from mier_adapt.protocols import Gate

_MOST_BYTES = 2**20
"""Of a TOML file. Those of the library take kilobytes."""
_NONE = "None"
"""What stands for None in a file, as on the command line: TOML has no such value."""


class _Field(NamedTuple):
    """A field of a configuration, or of one within it."""

    owner: type
    path: tuple[str, ...]
    kind: Any
    doc: str

    @property
    def name(self) -> str:
        """The option without its dashes; which gate is ``gate``, and its fields ``gate.…``."""
        path = self.path[:-1] if self.path[-1] == "kind" else self.path
        return ".".join(path).replace("_", "-")


class Options:
    """The fields of configurations as options, as keys of a file, and as words of errors.

    Args:
        configs: The configurations by the key under which their fields lie; "" for the top.
        aliases: Further options by the names of those that they are.
    """

    def __init__(
        self, configs: Mapping[str, type], *, aliases: Mapping[str, str] | None = None
    ) -> None:
        self._fields = [
            field
            for key, config in configs.items()
            for field in _fields_of(config, (key,) if key else ())
        ]
        self._aliases = dict(aliases or {})

    @property
    def words(self) -> list[str]:
        """All options, with their dashes."""
        found = [f"--{alias}" for alias in self._aliases.values()]
        for field in self._fields:
            found.append(f"--{field.name}")
            if field.kind is bool:
                before, dot, last = field.name.rpartition(".")
                found.append(f"--{before}{dot}no-{last}")
        return found

    def listed(self) -> str:
        """The options' names, wrapped, as a help shows so many."""
        by_key: dict[str, list[str]] = {}
        for field in self._fields:
            key, _, last = field.name.rpartition(".")
            if field.kind is bool:
                last = f"[no-]{last}"
            if field.name in self._aliases:
                last += f"|{self._aliases[field.name]}"
            if field.path[0] == "adapt":
                key, last = "adapt", "as in adapt"
            by_key.setdefault(key, [])
            if last not in by_key[key]:
                by_key[key].append(last)
        parts = by_key.pop("", [])
        parts += [f"{key}.{{{' '.join(names)}}}" for key, names in by_key.items()]
        wrapper = textwrap.TextWrapper(
            width=78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        return wrapper.fill(" ".join(parts))

    def parse(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The values that options give, by key, and the words that are none of these options."""
        kind = self._typed_dict(())
        given, rest = tyro.cli(kind, args=words, return_unknown_args=True, add_help=False)
        return _pruned(given), rest

    def _typed_dict(self, at: tuple[str, ...]) -> Any:
        """A type whose every key may be missing: what is not given is known as that."""
        kinds: dict[str, Any] = {}
        for field in self._fields:
            if field.path[: len(at)] != at:
                continue
            key, *below = field.path[len(at) :]
            if below:
                kinds.setdefault(key, self._typed_dict((*at, key)))
            elif key == "kind":  # --gate margin
                kinds[key] = Annotated[field.kind, tyro.conf.arg(name="")]
            elif field.name in self._aliases:
                alias = f"--{self._aliases[field.name]}"
                kinds[key] = Annotated[field.kind, tyro.conf.arg(aliases=[alias])]
            else:
                kinds[key] = field.kind
        return typing.TypedDict("Options", kinds, total=False)  # type: ignore[operator]

    # Files ------------------------------------------------------------------------------------

    def read(self, path: Path) -> dict[str, Any]:
        """What a TOML file gives, by key.

        Raises:
            UsageError: If it is no TOML, or has a key that no configuration has.
        """
        values = read_toml(path)
        return self.checked(values, path)

    def checked(self, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """What a table of a TOML file gives, by key.

        Raises:
            UsageError: If it has a key that no configuration has.
        """
        self._require_keys(values, (), path)
        return _with_none(values)

    def _require_keys(self, values: dict[str, Any], at: tuple[str, ...], path: Path) -> None:
        below = [each.path[len(at) :] for each in self._fields if each.path[: len(at)] == at]
        tables = {each[0] for each in below if len(each) > 1}
        for key, value in values.items():
            name = ".".join((*at, key))
            known = [".".join((*at, each[0])) for each in below]
            require_known(f"key of {path}", name, dict.fromkeys(known))
            if (key in tables) != isinstance(value, dict):
                wanted = f"a table, [{name}]" if key in tables else "a value, not a table"
                raise UsageError(f"{path} expected {name} to be {wanted}.")
            if key in tables:
                self._require_keys(value, (*at, key), path)

    def to_toml(self, values: Mapping[str, Any]) -> str:
        """Values by key as a file that :meth:`read` reads, with what each field means."""
        lines: list[str] = []
        table: tuple[str, ...] = ()
        for field in self._fields:
            value = values
            try:
                for key in field.path:
                    value = value[key]
            except KeyError:  # what another gate has
                continue
            if field.path[:-1] != table:
                table = field.path[:-1]
                lines += ["", f"[{'.'.join(table)}]"]
            lines += [f"# {line}" for line in field.doc.splitlines()]
            lines.append(f"{field.path[-1]} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    # Errors -----------------------------------------------------------------------------------

    @contextmanager
    def errors(self, given: Mapping[str, Any], path: Path | None = None) -> Iterator[None]:
        """Say in words of the command line, or of the file, what a configuration refuses."""
        try:
            yield
        except UsageError:
            raise
        except (TypeError, ValueError) as error:
            message = str(error.__cause__ or error)
            owner, subject = re.match(r"(?:(\w+) expected (\w+))?", message).groups()  # type: ignore[union-attr]
            fields = [each for each in self._fields if each.owner.__name__ == owner]
            for field in fields:
                if path and _python_name(field) == subject and not _holds(given, field.path):
                    key = {subject: ".".join(field.path)}
                    raise UsageError(f"{path}: {in_shell_words(message, key)}") from error
            names = {_python_name(each): self._shown(each) for each in fields}
            raise UsageError(in_shell_words(message, names)) from error

    @property
    def names(self) -> dict[str, str]:
        """Options by the names of the fields at the top, as errors name these."""
        return {each.path[0]: self._shown(each) for each in self._fields if len(each.path) == 1}

    def _shown(self, field: _Field) -> str:
        return f"--{self._aliases.get(field.name, field.name)}"


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        UsageError: If it is no TOML.
    """
    try:
        return tomllib.loads(read_bytes(path, most=_MOST_BYTES).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error


def _fields_of(config: type, at: tuple[str, ...]) -> Iterator[_Field]:
    hints, docs = typing.get_type_hints(config, include_extras=True), _docs(config)
    for each in dataclasses.fields(config):
        kind, path, doc = hints[each.name], (*at, each.name), docs.get(each.name, "")
        if kind is Gate:
            yield _Field(config, (*path, "kind"), Literal[tuple(GATES)], doc)
            for gate in GATES.values():
                yield from _fields_of(gate, path)
        elif dataclasses.is_dataclass(kind):
            yield from _fields_of(kind, path)  # type: ignore[arg-type]
        else:
            yield _Field(config, path, kind, doc)


def _docs(config: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, and of those that it derives from."""
    base = config.__mro__[1]
    inherited = _docs(base) if dataclasses.is_dataclass(base) else {}
    (defined,) = ast.parse(inspect.cleandoc(inspect.getsource(config))).body
    assert isinstance(defined, ast.ClassDef)
    return inherited | {
        field.target.id: re.sub(r":\w+:`\.?(\w+)`", r"\1", inspect.cleandoc(text.value.value))
        for field, text in zip(defined.body, defined.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _python_name(field: _Field) -> str:
    return field.path[-2] if field.path[-1] == "kind" else field.path[-1]


def _pruned(given: dict[str, Any]) -> dict[str, Any]:
    """Without the keys under which nothing was given."""
    pruned = {key: _pruned(each) if isinstance(each, dict) else each for key, each in given.items()}
    return {key: each for key, each in pruned.items() if each != {}}


def _with_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _with_none(each) if isinstance(each, dict) else None if each == _NONE else each
        for key, each in values.items()
    }


def _holds(values: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _toml(value: Any) -> str:
    if value is None:
        return f'"{_NONE}"'
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
