"""The methods that a file in memlm/methods/ defines, and the incomplete ones that are refused."""

import re
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import pytest

from memlm.identity import names_result
from memlm.methods.config import MethodConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.registry import configs_in


class Shared(MethodConfig, ABC):
    """A base of methods, with no name of its own."""


@dataclass(frozen=True, kw_only=True)
class Whole(Shared):
    name: ClassVar[str] = "whole"
    base: ClassVar[str] = "dense"
    moves: ClassVar[str] = "nothing"

    rate: float = names_result(1.0)

    def build(self, model, inputs):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Nameless(LoRAConfig):
    rate: float = names_result(1.0)


class Undecorated(Whole):
    name: ClassVar[str] = "undecorated"

    rank: int = names_result(1)


@dataclass(frozen=True, kw_only=True)
class Unbuilt(Shared):
    name: ClassVar[str] = "unbuilt"


def test_methods_are_the_complete_configs_that_the_module_itself_defines():
    assert list(configs_in([MethodConfig, LoRAConfig, Shared, Whole, "Whole", int], __name__)) == [Whole]


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        (Nameless, "a name of its own"),
        (Undecorated, "@dataclass"),
        (Unbuilt, "base, build, moves"),
    ],
)
def test_an_incomplete_method_is_refused_naming_what_it_lacks(kind, lacking):
    with pytest.raises(
        ValueError, match=re.escape(f"{kind.__name__} is a method without {lacking}; add what is missing")
    ):
        list(configs_in([kind], __name__))
