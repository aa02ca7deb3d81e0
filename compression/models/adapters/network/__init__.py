"""Networks in torch: the model that computes a graph, and the adapter that tells the stages which module is which."""
