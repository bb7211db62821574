"""The history, oldest first. A file that has been released is never changed."""
