"""What commands show: tables, bars and JSON. Imports the client, never a command."""
