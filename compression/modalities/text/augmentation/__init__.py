"""More rows for distillation: other words of like meaning, or another language and back. Labels are a teacher's to give."""
