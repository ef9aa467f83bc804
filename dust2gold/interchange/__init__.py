"""Import and export: models for any server, data sets for other trainers, tasks for evaluation harnesses."""
