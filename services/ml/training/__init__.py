"""Trains and releases model versions. Needs the extra ``train``; serving does not import it."""
