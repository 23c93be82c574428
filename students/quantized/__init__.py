"""Models that compute in few bits: quantisers, the layers that use them, and how a file describes such a model."""
