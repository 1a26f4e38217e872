"""Inline SVG, one plot a file: each is a function from the report to markup, with no style of its own (the page's
classes colour it, light and dark) and a `<title>` on every mark for pointers and screen readers."""
