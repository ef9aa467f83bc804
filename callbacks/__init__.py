"""What watches a stage and what writes its results; see docs/architecture.md."""
