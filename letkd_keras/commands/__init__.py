"""What the commands share: options, messages, logs, progress, folders of results."""
