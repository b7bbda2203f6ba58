"""Reads Google Cloud Storage (gs://) in ranges of one generation, with google-auth's credentials."""
