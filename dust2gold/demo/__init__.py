"""The embedded default: a tiny student (`student/`), its problems and its teacher, all generated, none downloaded."""

from pathlib import Path

STUDENT_DIR = Path(__file__).parent / "student"
"""Where the shipped student lies; the name `embedded` stands for it wherever a student path is asked for."""
