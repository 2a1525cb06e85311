"""What `flctl new` writes: files that run as they are."""
