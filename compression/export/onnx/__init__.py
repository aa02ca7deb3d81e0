"""Writes ONNX files: traced for encoders, node by node for decoders, and quantized."""
