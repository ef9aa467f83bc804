"""The mathematics of the stages in plain torch, importable and testable without Lightning."""
