"""What a user writes, checked: values with their types, and YAML documents with their lines."""
