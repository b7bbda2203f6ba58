"""Opens and reads objects over HTTP. Every object store shares this."""
