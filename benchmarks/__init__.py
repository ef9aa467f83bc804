"""What the method costs, measured: one command each, `python -m benchmarks.NAME`, results in docs/performance.md."""
