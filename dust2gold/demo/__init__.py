"""The embedded default: a tiny student (`student/`), its problems and its teacher, all generated, none downloaded."""
