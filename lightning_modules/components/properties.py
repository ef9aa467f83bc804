"""Modules with properties."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import nn


class ModuleWithProperties(nn.Module):
    """Shows what goes wrong in a property.

    Where one raises an AttributeError, torch would say that the module has no attribute of the property's name.
    """

    def __getattr__(self, name: str) -> Any:
        """Called where `name` was not found, or its property raised: there once more, to raise the same again."""
        if isinstance(getattr(type(self), name, None), (property, cached_property)):
            return object.__getattribute__(self, name)
        return super().__getattr__(name)
