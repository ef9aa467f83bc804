"""Data in, batches out: the DataModules of training, ranking and voting. Never imports `lightning_modules`."""
