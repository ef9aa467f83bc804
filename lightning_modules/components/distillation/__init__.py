"""NCE's teachers, online and cached."""
