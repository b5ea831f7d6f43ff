"""Traces and logs of a service process."""
