"""How good and how fast a model or an artifact is: in the engine, in a fresh process, by lm-eval, for one row."""
