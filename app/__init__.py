"""The HTTP service. It validates, stores and answers; it never imports torch, transformers or the workers."""
