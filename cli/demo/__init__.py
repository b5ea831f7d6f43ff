"""`anya demo`: the main job on real parts, and four ways in which it refuses or survives."""
