"""Parts of the ONNX reader: a file under bounds, its constants, its operators in the network's normal forms. No torch."""
