"""The whole way on one command: `run` walks a graph of stages made of our own command lines, `report` tabulates."""
