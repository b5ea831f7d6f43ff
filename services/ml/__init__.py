"""The ml service: simulation, training and serving of the risk model, with explanations."""
