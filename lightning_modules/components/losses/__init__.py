"""The losses of all stages, and the output head that they read."""
