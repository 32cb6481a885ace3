"""The RESP server: parser shell, command table, connections."""
