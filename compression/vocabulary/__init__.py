"""The vocabulary made smaller: which tokens a task's texts need, the tokenizer that knows only those, and their new ids.

Old and new tokenizer read every text of the job alike, id for id, and both read any other text: only into more and shorter
pieces. That is proven on the job's own texts before anything is trained (`fitted`).
"""

from compression.vocabulary.files import trimmed, write
from compression.vocabulary.fitted import Vocabulary, fitted
from compression.vocabulary.needs import needed, parts_of, tokens_of

__all__ = ["Vocabulary", "fitted", "needed", "parts_of", "tokens_of", "trimmed", "write"]
