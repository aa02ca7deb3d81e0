"""Jobs without training, of decoders that memory does not hold: from file to file, a few rows or a layer at a time."""
