"""Images: reads, decodes and checks them, encodes them for a network, and scores classifiers of them."""
