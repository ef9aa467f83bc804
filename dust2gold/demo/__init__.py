"""The embedded default: a tiny student, its problems and its teacher, all generated, none downloaded.

| file | what it holds |
|---|---|
| `problems.py` | seeded arithmetic word problems with their exact solution steps |
| `teacher.py` | a teacher that writes rationales for them and slips the way a real one does |
| `generate.py` | writes teacher samples and test questions in the publishers' own formats |
| `corpus.py` | the text the tiny student was pretrained on |
| `pretrain.py` | the command that made `student/` |
| `student/` | the weights (LLaMA architecture, fp32 safetensors) and the tokenizer |
"""

from pathlib import Path

STUDENT_DIR = Path(__file__).parent / "student"
"""Where the shipped student lies; the name `embedded` stands for it wherever a student path is asked for."""
