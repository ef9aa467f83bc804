"""Questions, rationales and their files."""
