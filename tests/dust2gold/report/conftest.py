"""The stages of the tests of `run`, for a report of a run."""

from tests.dust2gold.run.conftest import world

__all__ = ["world"]
