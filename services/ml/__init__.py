"""The ml service: models, what they may claim, and why they said it."""
