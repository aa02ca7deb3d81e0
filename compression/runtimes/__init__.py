"""How a stock runtime opens each kind of artifact, for verifying and measuring it. Nothing here knows the engine's model.

One module a kind, imported when an artifact of that kind is opened: who measures an ONNX file must not load torch.
"""
