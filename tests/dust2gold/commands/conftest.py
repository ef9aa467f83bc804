"""The stages of the tests of `run`."""

from tests.dust2gold.run.conftest import world

__all__ = ["world"]
