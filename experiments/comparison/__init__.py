"""Two evaluations, instance by instance."""
