"""Is a rationale's answer the gold one?"""
