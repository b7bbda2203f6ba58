"""The transport over libcurl, through ctypes."""
