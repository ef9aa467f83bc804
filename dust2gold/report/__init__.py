"""The report of a run: analyses of its records, and their tables and figures."""
