"""What a worker of a build with sanitizers needs: `make test-sanitized`."""
