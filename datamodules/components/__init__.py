"""What the DataModules stand on: the record schema, readers, graders, prompts, encoding. Never imports lightning."""
