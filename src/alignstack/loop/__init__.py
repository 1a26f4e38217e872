"""What spans the floors below: the demo, one request explained, texts scored, a failure traced to its cause."""
