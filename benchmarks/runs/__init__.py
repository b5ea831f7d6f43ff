"""Engines that run four steps, each in a process of its own that works when it is asked to.

A line on stdin, ``CONCURRENCY SECONDS``, asks for a burst. One line of JSON answers: runs a second,
the median and the 99th percentile of their durations, and the CPU time that one took in the engine
and in its client, all four in ms. They end with stdin. Behind gRPC or HTTP the runs are asked for
by a client in yet another process, without which the CPU time of a client is 0.
"""
