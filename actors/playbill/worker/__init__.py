"""The worker: claims jobs, runs them through Dramatiq, and finishes them in groups."""
