"""Simulated economies: a plan of transactions, its ground truth, and an in-memory renderer.

``population`` builds the worlds of training and of the demonstration. ``plan`` defines what a
renderer may rely on, ``index`` renders a plan in memory, and ``demonstration`` finds the two
recipients of the demonstration. All modules are pure; randomness comes from a seed.
"""
