"""Driving runs: doing what the engine wants, and journalling what came of it."""
