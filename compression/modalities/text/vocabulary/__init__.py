"""The vocabulary made smaller: which tokens a task's texts need, the tokenizer that knows only those, and their new ids."""
