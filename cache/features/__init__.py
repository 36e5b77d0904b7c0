"""Feature caches: which layers of a pass are computed, and which are made of what earlier passes left."""
