"""Files and folders: looked at before they are written or read, whole or absent afterwards."""
