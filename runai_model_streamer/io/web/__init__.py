"""Files of web servers, https:// and http://: opened, listed by usual names, and read in ranges."""
