"""The orchestrator: durable workflows over the services, the only one that calls the others."""
