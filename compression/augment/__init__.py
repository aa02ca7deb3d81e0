"""More rows for distillation, made of those there are: by other words of like meaning, or by another language and back.

`rows.augmented` is the way in; the other modules are where words and translations come from. Nothing here knows of labels: what
is made is for a teacher to judge. `stage` alone knows of the job's state.
"""
