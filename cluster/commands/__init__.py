"""The subcommands of `stratacache`, one file each. Nothing here is imported before its command is called."""
