"""The Dynamic Integration Unit of NAT."""
