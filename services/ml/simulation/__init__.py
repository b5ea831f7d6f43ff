"""Simulated economies: a plan of transactions, the truth about it, and an in-memory renderer.

``population`` makes the worlds, to learn from and to demonstrate; ``plan`` says what a renderer may
rely on; ``index`` is the renderer without a chain; ``demonstration`` finds the two recipients of
the scenes. Everything here is pure.
"""
