"""Below the framework: the server, the strict body, the problem format and the layers."""
