"""Objects over HTTP and TLS from nginx on loopback: loaders and plain ranges, in turns."""
