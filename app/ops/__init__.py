"""What operators see: metrics and the fleet."""
