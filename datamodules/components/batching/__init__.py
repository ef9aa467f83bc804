"""From token ids to batches, and which batch comes when."""
