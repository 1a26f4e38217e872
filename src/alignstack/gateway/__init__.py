"""The HTTP edge: every dialect becomes one internal request, goes down the stack, and comes back in its dialect."""
