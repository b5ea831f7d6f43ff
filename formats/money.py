"""Amounts of bitcoin, in satoshis."""

SAT_PER_BTC = 100_000_000
MAX_SAT = 21_000_000 * SAT_PER_BTC  # consensus allows no larger amount
