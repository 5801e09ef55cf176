"""A search for the best objective: what to try next, and trials as jobs of a sweep."""
