"""`collect`: rationales for our questions from a large model behind an OpenAI-compatible endpoint."""
