"""The stages of the method, one LightningModule a file; see docs/architecture.md."""
