"""What a finished run's records say: one analysis a file, with its definition, its source and its section."""
