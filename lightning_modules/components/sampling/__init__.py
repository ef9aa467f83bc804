"""Sampling rationales from a decoder."""
