"""The web5 service: who somebody is, what was proved about them, and the records that say so."""
