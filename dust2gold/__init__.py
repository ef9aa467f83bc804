"""Everything of ours beside the stages, their data and their callbacks: commands, runs, reports, the demo, exports."""
