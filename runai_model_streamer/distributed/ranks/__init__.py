"""How the ranks of a load meet, talk, and end: over gloo, whatever the backend of their process group."""
