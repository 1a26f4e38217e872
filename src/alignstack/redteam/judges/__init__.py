"""What an answer amounts to: did it give what was asked, did it decline? A judge is never a layer of the stack under
test and never uses its model."""
