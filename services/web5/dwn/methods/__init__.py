"""The decentralized web node: one file per message, from what is kept to the reply."""
