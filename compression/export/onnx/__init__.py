"""ONNX files: traced for encoders, written node by node for decoders, and their integers."""
