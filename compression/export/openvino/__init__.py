"""Writes OpenVINO's files, from the ONNX graphs of `export.onnx`."""
