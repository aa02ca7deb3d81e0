"""Language modelling: texts as documents of tokens, rows to learn from and windows to be judged by, losses over a vocabulary.

What is here asks a stock causal model for the states that its head reads, and takes them to the vocabulary some tokens at a
time: all logits of a batch at once would be the largest tensor of a job. The metrics are torch-free, in `scoring.language`.
Nothing here trains, reads files of data or knows a recipe.
"""
