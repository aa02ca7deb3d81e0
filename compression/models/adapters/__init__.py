"""What each model family's modules and stock config mean, and the one cut that makes smaller stock models of them."""
