"""Features as pure functions, which training, serving and the simulator share."""
