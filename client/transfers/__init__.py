"""Files on their way to the service and back: what is sent of a folder, uploads in parts, downloads in ranges."""
