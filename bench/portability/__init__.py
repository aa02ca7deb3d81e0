"""Whether a model's answers hold: what the portable form costs (`portable`), and whether all processors agree (`equality`).

What these take from the engine is what a job ships; records of runs lie in `records/`, in the repository.
"""
