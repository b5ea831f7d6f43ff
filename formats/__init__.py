"""Shared pure code for wire and text formats: no I/O, no service, no mesh."""
