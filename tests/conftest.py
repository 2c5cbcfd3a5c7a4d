"""The order of the tests."""

LONG = ("test_end_to_end.py", "test_own_notes.py")


def pytest_collection_modifyitems(items):
    """The files that take minutes come first: one process each, while the others share the rest."""
    items.sort(key=lambda item: item.path.name not in LONG)
