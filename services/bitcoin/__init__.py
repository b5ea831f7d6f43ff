"""The bitcoin service: a chain, its index, wallets, and payments that need proof."""
