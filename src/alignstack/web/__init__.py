"""What the gateway and other pages share: server-sent events, authentication, and who may connect."""
