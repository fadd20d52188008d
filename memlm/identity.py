"""Identity of a result: the settings that it depends on. Each field of a config declares its role:

    num_steps: int = names_result(1000)     another value is another result
    log_every: int = execution_only(50)     how it is made; the result stays the same

`identity` collects fields of the first kind as JSON for an artifact's manifest, so that a result is
found by the settings that it depends on, and by no others.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")
_ROLE = "role"


@dataclass(frozen=True, kw_only=True)
class Role:
    """Role of a field in the identity of results."""

    names_result: bool
    only: tuple[str, ...] = ()
    """Products whose identity includes the field, if the config makes several; empty for all."""
    when: Callable[[Any], bool] | None = None
    """Whether the field has an effect in this config; None for always."""

    def names(self, config: Any, product: str) -> bool:
        """Whether the field is part of that product's identity; for an empty name, of any."""
        concerned = not (product and self.only) or product in self.only
        return self.names_result and concerned and (self.when is None or self.when(config))


def names_result(default: T, *, only: Iterable[str] = (), when: Callable[[Any], bool] | None = None) -> T:
    """Field of a config whose value decides the result."""
    role = Role(names_result=True, only=tuple(only), when=when)
    value: T = field(default=default, metadata={_ROLE: role})
    return value


def execution_only(default: T) -> T:
    """Field of a config that decides how, where or how safely a result is made, and not the
    result."""
    value: T = field(default=default, metadata=EXECUTION_ONLY)
    return value


NAMES_RESULT: Mapping[str, Role] = MappingProxyType({_ROLE: Role(names_result=True)})
EXECUTION_ONLY: Mapping[str, Role] = MappingProxyType({_ROLE: Role(names_result=False)})
"""For fields without a default: `path: str = field(metadata=NAMES_RESULT)`."""


def role_of(declared: Any) -> Role | None:
    """Role of a dataclass's field; None if it declares none."""
    role: Role | None = declared.metadata.get(_ROLE)
    return role


def identity(part: Any, *, of: str = "") -> dict[str, Any]:
    """JSON with the settings that identify a result. `of` is the product, for a config that makes
    several."""
    return _with_name(part, _plain(part, lambda config, declared: _names(config, declared, of)))


def settings(part: Any) -> dict[str, Any]:
    """JSON with every field of a config, to record how something was made."""
    return _with_name(part, _plain(part, lambda config, declared: True))


def _names(config: Any, declared: Any, product: str) -> bool:
    """Whether a field is part of the identity. One without a role counts as part of it: at worst, a
    result is made again."""
    role = role_of(declared)
    return role is None or role.names(config, product)


def _with_name(part: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Values with the method's name: two methods may have the same settings."""
    return {"name": part.name, **values} if hasattr(part, "label") else values


def _plain(value: Any, keeps: Callable[[Any, Any], bool]) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name), keeps) for each in fields(value) if keeps(value, each)}
    if isinstance(value, tuple | list):
        return type(value)(_plain(each, keeps) for each in value)
    return value


def first_difference(made: Any, wanted: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """The first field in which two configs differ, with both values. Tuples equal lists, as in
    JSON."""
    if isinstance(made, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*wanted, *made]):
            found = first_difference(made.get(key), wanted.get(key), f"{field}.{key}" if field else key)
            if found is not None:
                return found
        return None
    if isinstance(made, list | tuple) and isinstance(wanted, list | tuple) and len(made) == len(wanted):
        for index, (one, other) in enumerate(zip(made, wanted, strict=True)):
            found = first_difference(one, other, f"{field}[{index}]")
            if found is not None:
                return found
        return None
    if isinstance(made, tuple | list) and isinstance(wanted, tuple | list):
        return field, made, wanted
    return None if made == wanted else (field, made, wanted)
