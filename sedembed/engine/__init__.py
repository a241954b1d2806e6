"""What runs a network over windows of sound."""
