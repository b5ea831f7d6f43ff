"""Engines that run four steps, each in a process of its own that works when it is asked to.

A line on stdin, ``CONCURRENCY SECONDS``, asks for a burst. One line of JSON answers: runs a second,
the 99th percentile of their durations and the CPU time of one, both in ms. They end with stdin.
"""
