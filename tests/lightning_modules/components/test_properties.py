import importlib
import pkgutil
from collections.abc import Iterator
from functools import cached_property

import pytest
from torch import nn

import lightning_modules
from lightning_modules.components.properties import ModuleWithProperties


def owners(kind: type[nn.Module]) -> Iterator[type[nn.Module]]:
    """Our classes below `kind` that define a property."""
    for each in kind.__subclasses__():
        yield from owners(each)
        if each.__module__.startswith("lightning_modules."):
            found = (value for value in vars(each).values() if isinstance(value, (property, cached_property)))
            yield from [each for _ in found][:1]


def test_every_module_of_ours_with_a_property_shows_its_error() -> None:
    for module in pkgutil.walk_packages(lightning_modules.__path__, "lightning_modules."):
        importlib.import_module(module.name)
    found = set(owners(nn.Module))
    assert {"AdapterStack", "NCEModel", "RankModel", "StudentModule"} <= {each.__name__ for each in found}
    for kind in found:
        assert issubclass(kind, ModuleWithProperties), kind


@pytest.mark.parametrize("kind", [property, cached_property])
def test_the_cause_is_not_hidden(kind: type) -> None:
    class Hiding(ModuleWithProperties):
        head = kind(lambda self: None.weight)  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'weight'"):
        _ = Hiding().head
    with pytest.raises(AttributeError, match="no attribute 'tail'"):
        _ = Hiding().tail
