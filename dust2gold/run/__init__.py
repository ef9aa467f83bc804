"""`run`: the method's stages as Python, and what skips, resumes and repeats them."""
