"""Each field of each config declares whether it names a result, and `identity` follows it."""

import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass

import pytest

from memlm.config import Config
from memlm.identity import NAMES_RESULT, execution_only, identity, names_result, role_of, settings
from memlm.methods.registry import METHOD_CONFIGS


def configs_in(kind: object) -> Iterator[type]:
    """Every dataclass that a type holds, at any depth."""
    if isinstance(kind, type) and is_dataclass(kind):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from configs_in(inner)
    for inner in typing.get_args(kind):
        yield from configs_in(inner)


def unclassified(*kinds: type) -> list[str]:
    return [f"{kind.__name__}.{each.name}" for kind in kinds for each in fields(kind) if role_of(each) is None]


KINDS = (Config, *METHOD_CONFIGS.values())
CONFIGS = sorted({inner for kind in KINDS for inner in configs_in(kind)}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_says_whether_it_names_a_result(kind):
    """Declare a new field with names_result(default) or execution_only(default), by whether another
    value of it is another result."""
    assert unclassified(kind) == []


def test_a_field_that_does_not_say_is_found_at_any_depth():
    @dataclass(frozen=True)
    class Inner:
        says: int = names_result(1)
        forgot: int = 1

    @dataclass(frozen=True)
    class Outer:
        inner: tuple[Inner, ...] | None = names_result(None)

    Outer.__annotations__["inner"] = tuple[Inner, ...] | None
    assert unclassified(*configs_in(Outer)) == ["Inner.forgot"]


def test_the_configs_of_every_part_are_checked():
    names = {kind.__name__ for kind in CONFIGS}
    assert {"Config", "MemoryConfig", "FieldsConfig", "HeldOutConfig", "EndpointConfig", "OptimizerConfig"} <= names
    assert {kind.__name__ for kind in METHOD_CONFIGS.values()} <= names


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_part_that_names_no_result_has_no_field_that_does(kind):
    for each in fields(kind):
        role = role_of(each)
        assert role is not None
        if not role.names_result:
            inner = list(configs_in(typing.get_type_hints(kind)[each.name]))
            assert not any(role_of(below).names_result for part in inner for below in fields(part))


@dataclass(frozen=True, kw_only=True)
class Layer:
    width: int = names_result(3)
    threads: int = execution_only(1)


@dataclass(frozen=True, kw_only=True)
class Model:
    path: str = field(metadata=NAMES_RESULT)
    layers: tuple[Layer, ...] = names_result((Layer(), Layer(width=4)))
    log_every: int = execution_only(50)
    vocabulary: int = names_result(9, only=("tokenizer",))
    share: float = names_result(1.0, when=lambda model: model.share < 1)


def test_identity_holds_the_fields_that_name_the_result_and_settings_hold_all():
    model = Model(path="a")
    assert identity(model) == {"path": "a", "layers": ({"width": 3}, {"width": 4}), "vocabulary": 9}
    assert identity(model) == identity(Model(path="a", log_every=7, layers=(Layer(threads=2), Layer(width=4))))
    assert settings(model) == {
        "path": "a",
        "layers": ({"width": 3, "threads": 1}, {"width": 4, "threads": 1}),
        "log_every": 50,
        "vocabulary": 9,
        "share": 1.0,
    }


def test_identity_of_one_product_leaves_out_what_names_another():
    model = Model(path="a", share=0.5)
    assert list(identity(model, of="model")) == ["path", "layers", "share"]
    assert list(identity(model, of="tokenizer")) == ["path", "layers", "vocabulary", "share"]
