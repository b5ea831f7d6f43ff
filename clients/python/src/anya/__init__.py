"""The contracts of Anya Mesh: messages and gRPC stubs, one package per service and version."""
