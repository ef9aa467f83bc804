"""What every part stands on: errors that name the way out, files written whole or not at all, JSON lines.

Imports nothing of ours and nothing heavy; `datamodules` and `lightning_modules` both may use it.
"""
