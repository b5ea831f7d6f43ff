"""Bitcoin's formats: hashes, scripts, transactions, blocks and addresses."""
