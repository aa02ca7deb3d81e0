"""SQuAD 2.0: exact match and F1 with "no answer", before and after compression."""
