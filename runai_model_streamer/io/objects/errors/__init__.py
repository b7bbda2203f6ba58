"""What failures of object stores mean to users, whichever store it is."""
