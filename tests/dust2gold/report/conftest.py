"""Fixtures of the pipeline's tests, for a report of a run."""

from tests.dust2gold.run.conftest import world

__all__ = ["world"]
