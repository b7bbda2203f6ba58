"""Google Cloud Storage, gs://: google-auth finds credentials, and bytes are read in ranges of one generation."""
