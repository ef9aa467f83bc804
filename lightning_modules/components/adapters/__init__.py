"""LoRA adapters on one frozen base."""
