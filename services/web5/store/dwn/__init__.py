"""The tenants' decentralized web nodes: their tables, and each message inside its transaction."""
