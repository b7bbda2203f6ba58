"""Local files, read past the page cache, through it, or straight into GPU memory."""
