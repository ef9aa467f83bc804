"""What a finished run's records say: plain functions, one analysis a file, each with its definition and its source.

They read predictions and scored samples, know nothing of Markdown or figures (`pipeline.sections` has those), and never
import Lightning.
"""
