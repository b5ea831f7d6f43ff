"""What the bitcoin service must not forget, one file per group of tables."""
