"""The actors of the bitcoin service: one owns the chain, one the wallets."""
