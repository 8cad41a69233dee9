"""The kinds of DATA, a file each: every module in here is asked whether what the user wrote is of its kind."""
