"""What the web5 service must not forget, one file per group of tables."""
