"""Says in words what a backend would choke on in an exported graph."""
